"""`tcbench reproduce`: make a published comparison again, from training to the page."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.cli import options

if TYPE_CHECKING:
    from benchmarks.reproduce.cells import Cell


def reproduce(
    table: Annotated[str, typer.Argument(help="What is made: world-table.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the work; the same command goes on.")],
    docs: Annotated[
        Path | None, typer.Option("--docs", help="Where page, boards and pictures go; OUT/page by default.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Hardly any of everything, to see that it works.")
    ] = False,
    headline: Annotated[
        bool, typer.Option("--headline", help="Only the methods with several training seeds: half the work.")
    ] = False,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records", help="Records of an earlier page, such as docs/world-table/records: not done again."
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Cells side by side, a core each.")
    ] = os.cpu_count() or 1,
    dry_run: options.DryRun = False,
) -> None:
    """Train every method of a comparison, draw and score it on held-out prompts, and write the tables.

    Work is done in cells, which are resumable and are never done twice. world-table is on the embedded world:
    five to ten core-hours, and ten minutes with --quick.
    """
    from benchmarks.cli.progress import progress
    from benchmarks.reproduce import world
    from benchmarks.reproduce.cells import work
    from benchmarks.reproduce.records import known, restore
    from tcbench.errors import UnknownName

    if table != "world-table":
        raise UnknownName("comparison", table, ["world-table"])
    scale = world.QUICK if quick else world.FULL
    cells = world.cells(scale, headline_only=headline)
    kept = known(cells, out, records) if records else {}
    if dry_run:
        _show(cells, out, kept)
        return
    out.mkdir(parents=True, exist_ok=True)
    if records:
        print(f"{records} holds {len(kept)} of {len(cells)} cells that are not done here")
        restore(kept, out, records)
    with progress() as shown:
        work(cells, out, jobs, shown)
    from benchmarks.reproduce.page import write_page

    for path in write_page(out, docs or out / "page", scale, headline_only=headline):
        print(path)


def _show(cells: Sequence[Cell], out: Path, kept: Container[str]) -> None:
    """What would be done, and what is not any more."""
    from benchmarks.cli.tables import text_table
    from benchmarks.reproduce.cells import undone

    todo = {cell.name for cell in undone(cells, out)}
    rows = [
        {
            "cell": cell.name,
            "core-minutes": f"{cell.minutes:.1f}",
            "done": "on record" if cell.name in kept else "no" if cell.name in todo else "yes",
            "needs": ", ".join(cell.needs),
        }
        for cell in cells
    ]
    print(text_table(rows))
    print(f"{len(cells)} cells, {sum(cell.minutes for cell in cells) / 60:.1f} core-hours")
