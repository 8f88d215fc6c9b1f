"""`tcbench sweep`: score a tuned encoder at several strengths and numbers of tuned steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import options

app = typer.Typer(add_completion=False)


@app.command()
def _sweep(
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for systems, runs, table and figures.")],
    strengths: Annotated[
        str,
        typer.Option(help="Comma-separated weights of the tuned encoder; the original one gets the rest."),
    ] = "0,0.25,0.5,0.75,1",
    tuned_steps: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated numbers of last steps that use the tuned encoder; default: the model's own."
        ),
    ] = None,
    suite: options.Suite = None,
    rewards: options.Rewards = None,
    prompts: options.Prompts = None,
    limit: options.Limit = None,
    device: options.Device = "auto",
) -> None:
    """Generate and score images at several strengths of a tuned encoder and numbers of tuned steps.

    Writes sweep.csv (means and paired changes with intervals), curves.png and grid.png. Re-run the command to
    resume; finished runs are not repeated.
    """
    from benchmarks.cli.progress import show_progress
    from benchmarks.sweep import Sweep, run_sweep

    plan = Sweep(
        model=model,
        out=out,
        strengths=tuple(_numbers("strengths", strengths)),
        tuned_steps=tuple(map(int, _numbers("tuned-steps", tuned_steps))) if tuned_steps else (),
        suite=suite,
        rewards=options.names(rewards),
        prompts=prompts,
        limit=limit,
        device=device,
    )
    with show_progress() as shown:
        for file in run_sweep(plan, shown):
            print(file)


def _numbers(option: str, text: str) -> list[float]:
    """Parse comma-separated numbers of the option ``option``.

    Raises:
        typer.BadParameter: If one is not a number.
    """
    try:
        return [float(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        raise typer.BadParameter(
            f"--{option} is {text!r}; expected comma-separated numbers: {error}"
        ) from error
