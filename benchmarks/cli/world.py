"""`tcbench world build|report`: train the embedded world again, and measure the installed one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import rewards
import textcraftor

app = typer.Typer(no_args_is_help=True, add_completion=False)

_REWARDS = Path(rewards.__file__).parent / "world" / "weights"
_PIPELINE = Path(textcraftor.__file__).parent / "micro" / "pipeline"

_Folder = Annotated[Path, typer.Option(help="Folder of training states and logs; re-run to resume.")]
_Docs = Annotated[Path, typer.Option(help="Folder of the report and its pictures.")]


@app.command("build")
def _build(
    folder: _Folder = Path("build/world"),
    jobs: Annotated[int, typer.Option(help="Number of stages to train at a time, one core each.", min=1)] = (
        os.cpu_count() or 1
    ),
    device: Annotated[str, typer.Option(help='"cpu" or "cuda".')] = "cpu",
    install: Annotated[
        bool, typer.Option(help="Replace the shipped weights by the new ones and write the report.")
    ] = False,
    docs: _Docs = Path("docs/world"),
) -> None:
    """Train every model of the embedded world. Re-run the command to resume."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from tcbench.cells import ONE_CORE, run_cells, unfinished_cells
    from tcbench.progress import Silent
    from textcraftor.micro.training.stages import build_cells, install_world, training_state

    folder = folder.resolve()
    cells = build_cells(device)

    def show(running: Sequence[str]) -> None:
        table = Table("stage", "state", box=None)
        unfinished = {cell.name for cell in unfinished_cells(cells, folder)}
        for cell in cells:
            state = "waiting" if cell.name in unfinished else "finished"
            table.add_row(cell.name, training_state(folder, cell.name) if cell.name in running else state)
        live.update(table)

    environment = ONE_CORE if device == "cpu" else {}
    with Live(console=Console(stderr=True), refresh_per_second=2) as live:
        run_cells(cells, folder, jobs, Silent(), environment=environment, watch=show)
    if install:
        install_world(folder, _REWARDS, _PIPELINE)
        _report(folder, docs)
    else:
        print(
            f"trained: {folder}; to install it: tcbench world build --folder {folder} --install",
            file=sys.stderr,
        )


@app.command("report")
def _report(folder: _Folder = Path("build/world"), docs: _Docs = Path("docs/world")) -> None:
    """Measure the installed world; write report.md, its pictures and card.md."""
    from benchmarks.systems import STYLE_WORDS, SYSTEMS
    from textcraftor.micro.training.report import write_world_report

    write_world_report(
        folder,
        docs,
        _REWARDS,
        _PIPELINE,
        guidance=SYSTEMS["micro"].schedule.guidance,
        words=STYLE_WORDS,
        note=lambda line: print(line, file=sys.stderr),
    )
    print(docs / "report.md")
