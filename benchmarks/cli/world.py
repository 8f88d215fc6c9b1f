"""`tcbench world build|report`: retrain the embedded world from seeds, and measure what is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import rewards
import textcraftor

app = typer.Typer(no_args_is_help=True)

REWARDS = Path(rewards.__file__).parent / "world" / "weights"
PIPELINE = Path(textcraftor.__file__).parent / "micro" / "pipeline"

Folder = Annotated[Path, typer.Option(help="Training states and logs; building again goes on from them.")]
Docs = Annotated[Path, typer.Option(help="Where the report and its pictures are written.")]


@app.command()
def build(
    folder: Folder = Path("build/world"),
    jobs: Annotated[
        int, typer.Option(help="Stages trained side by side, a core each.", min=1)
    ] = os.cpu_count() or 1,
    device: Annotated[str, typer.Option(help='"cpu" or "cuda".')] = "cpu",
    install: Annotated[bool, typer.Option(help="Replace the shipped weights by the new ones.")] = False,
    docs: Docs = Path("docs/world"),
) -> None:
    """Train every model of the embedded world; resumable.

    With --install, ship the result and report on it.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from textcraftor.micro.training import stages

    with Live(console=Console(stderr=True), refresh_per_second=2) as live:
        for running in stages.build(folder.resolve(), jobs, device):
            table = Table("stage", "state", box=None)
            for name in stages.STAGES:
                state = "finished" if stages.finished(folder, name) else running.get(name, "waiting")
                table.add_row(name, state)
            live.update(table)
    if install:
        stages.install(folder, REWARDS, PIPELINE)
        report(folder, docs)
    else:
        print(
            f"trained: {folder}; install it with: tcbench world build --folder {folder} --install",
            file=sys.stderr,
        )


@app.command()
def report(folder: Folder = Path("build/world"), docs: Docs = Path("docs/world")) -> None:
    """Measure the installed world and write report.md with its pictures."""
    from benchmarks.systems import STYLE_WORDS, SYSTEMS
    from textcraftor.micro.training.report import write_report

    write_report(
        folder,
        docs,
        REWARDS,
        PIPELINE,
        guidance=SYSTEMS["micro"].guidance,
        words=STYLE_WORDS,
        note=lambda line: print(line, file=sys.stderr),
    )
    print(docs / "report.md")
