"""`tcbench sweep`: curves of every reward over the strength of a tuned encoder and the steps it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import options


def sweep(
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of systems, runs, table and pictures.")],
    strengths: Annotated[
        str, typer.Option(help="Weights of the tuned encoder; the original has the rest.")
    ] = "0,0.25,0.5,0.75,1",
    switch_steps: Annotated[
        str | None, typer.Option(help="Numbers of last steps; the checkpoint's own by default.")
    ] = None,
    suite: options.Suite = None,
    rewards: options.Rewards = None,
    prompts: options.Prompts = None,
    limit: options.Limit = None,
    device: options.Device = "auto",
) -> None:
    """Draw and score a tuned encoder at several strengths and switch steps.

    Writes sweep.csv (means and paired changes with intervals), curves.png and grid.png. The same command
    again draws nothing anew.
    """
    from benchmarks.cli.progress import progress
    from benchmarks.sweep import Sweep, run

    asked = Sweep(
        model=model,
        out=out,
        strengths=tuple(options.numbers("strengths", strengths)),
        lasts=tuple(map(int, options.numbers("switch-steps", switch_steps))) if switch_steps else (),
        suite=suite,
        rewards=options.names(rewards),
        prompts=prompts,
        limit=limit,
        device=device,
    )
    with progress() as shown:
        for file in run(asked, shown):
            print(file)
