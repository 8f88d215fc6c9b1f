"""`tcbench diversity`: how much the images of a prompt differ, as a column of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import options


def diversity(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them.", show_default=False)],
    by: Annotated[
        str, typer.Option("--by", help="The reward of the CLIP kind whose embedding tells images apart.")
    ] = "world-siglip",
    device: options.Device = "auto",
) -> None:
    """Measure 1 - the mean pairwise cosine of a prompt's images, for runs of several seeds.

    It becomes a column beside the rewards': `tcbench leaderboard` compares it like them.
    """
    from benchmarks.cli.progress import progress
    from benchmarks.columns import find_columns
    from benchmarks.diversity import measure
    from leaderboards.records import find_runs
    from textcraftor.diffusion.devices import find_device

    (column,) = find_columns([by])
    found = find_runs(runs)
    with progress() as shown:
        for run in found:
            if run.header.planned.seeds < 2 and len(found) > 1:
                shown.note(f"{run.path} has one image a prompt: it has no diversity")
                continue
            record = measure(run, column, find_device(device), shown)
            values = [s.score for s in run.scores(record).values() if s.score is not None]
            print(f"{run.path}: {sum(values) / len(values):.4f}" if values else f"{run.path}: none")
