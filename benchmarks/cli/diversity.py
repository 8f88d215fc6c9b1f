"""`tcbench diversity`: measure how much the images of one prompt differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import options

app = typer.Typer(add_completion=False)


@app.command()
def _diversity(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or their parent.", show_default=False)],
    by: Annotated[
        str, typer.Option("--by", help="A CLIP or SigLIP reward, whose image embeddings are compared.")
    ] = "world-siglip",
    device: options.Device = "auto",
) -> None:
    """Measure 1 - the mean pairwise cosine similarity of a prompt's images, for runs with several seeds.

    The result is a column of `tcbench leaderboard`, like the scores of a reward.
    """
    from benchmarks.cli.progress import show_progress
    from benchmarks.diversity import measure_diversity
    from benchmarks.resolve import resolve_rewards
    from leaderboards.run_state import find_runs
    from textcraftor.diffusion.devices import find_device

    (reward,) = resolve_rewards([by])
    states = find_runs(runs)
    with show_progress() as progress:
        for run in states:
            if run.header.planned.seeds < 2 and len(states) > 1:
                progress.note(f"{run.path} has one image per prompt, so it has no diversity")
                continue
            score_set = measure_diversity(run, reward, find_device(device), progress)
            values = [s.score for s in run.scores(score_set).values() if s.score is not None]
            print(f"{run.path}: {sum(values) / len(values):.4f}" if values else f"{run.path}: none")
