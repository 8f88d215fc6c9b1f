"""`tcbench reproduce`: run a published comparison again, from training to the report."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.cli import options

if TYPE_CHECKING:
    from tcbench.cells import WorkCell

app = typer.Typer(add_completion=False)


@app.command()
def _reproduce(
    table: Annotated[str, typer.Argument(help="The comparison: world-table.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Working folder; re-run the command to resume."),
    ],
    docs: Annotated[
        Path | None, typer.Option("--docs", help="Folder for report, boards and pictures; default OUT/page.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run a tiny version, to check that everything works.")
    ] = False,
    headline: Annotated[
        bool, typer.Option("--headline", help="Only the methods with several training seeds: half the work.")
    ] = False,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            help="Archive of an earlier run, such as docs/world-table/records; cells in it do not run.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Number of cells to run at a time, one core each.")
    ] = os.cpu_count() or 1,
    dry_run: options.DryRun = False,
) -> None:
    """Train every method of a comparison, sample and score held-out prompts, and write the tables.

    The work is split into resumable cells, and a finished cell is not run again. world-table compares methods
    on the embedded world in about eight core-hours, or in ten minutes with --quick.
    """
    from benchmarks.cli.progress import show_progress
    from benchmarks.reproduce import world
    from benchmarks.reproduce.archives import CellArchive
    from tcbench.cells import run_cells
    from tcbench.errors import ProblemCollector, UnknownName
    from tcbench.files import check_writable

    if table != "world-table":
        raise UnknownName("comparison", table, ["world-table"])
    problems = ProblemCollector()
    problems.run(lambda: check_writable(out))
    if docs:
        problems.run(lambda: check_writable(docs, "--docs"))
    problems.raise_any()
    scale = world.QUICK if quick else world.FULL
    cells = world.plan_cells(scale, headline_only=headline)
    archived = CellArchive(records).restorable(cells, out) if records else {}
    if dry_run:
        _show(cells, out, archived)
        return
    out.mkdir(parents=True, exist_ok=True)
    if records:
        print(f"restoring {len(archived)} of {len(cells)} cells from {records}")
        CellArchive(records).restore(archived, out)
    with show_progress() as shown:
        run_cells(cells, out, jobs, shown)
    from benchmarks.reproduce.report import write_comparison_report

    for path in write_comparison_report(out, docs or out / "page", scale, headline_only=headline):
        print(path)


def _show(cells: Sequence[WorkCell], out: Path, archived: Container[str]) -> None:
    """Print the plan and the state of each cell."""
    from benchmarks.cli.tables import text_table
    from tcbench.cells import unfinished_cells

    todo = {cell.name for cell in unfinished_cells(cells, out)}
    rows = [
        {
            "cell": cell.name,
            "core-minutes": f"{cell.minutes:.1f}",
            "finished": "archived" if cell.name in archived else "no" if cell.name in todo else "yes",
            "needs": ", ".join(cell.needs),
        }
        for cell in cells
    ]
    print(text_table(rows))
    print(f"{len(cells)} cells, {sum(cell.minutes for cell in cells) / 60:.1f} core-hours")
