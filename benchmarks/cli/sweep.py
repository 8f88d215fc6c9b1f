"""`tcbench sweep`: score a tuned encoder at several strengths and numbers of tuned steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from benchmarks.cli import options

app = typer.Typer(add_completion=False)

_Number = TypeVar("_Number", int, float)


@app.command()
def _sweep(
    model: options.Model,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for systems, runs, table and figures."),
    ],
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
        strengths=_numbers("--strengths", strengths, float, "numbers such as 0.5,1"),
        tuned_steps=()
        if tuned_steps is None
        else _numbers("--tuned-steps", tuned_steps, int, "whole numbers such as 5,15"),
        suite=suite,
        rewards=options.names(rewards),
        prompts=prompts,
        limit=limit,
        device=device,
    )
    with show_progress() as shown:
        for file in run_sweep(plan, shown):
            print(file)


def _numbers(option: str, text: str, kind: Callable[[str], _Number], expected: str) -> tuple[_Number, ...]:
    """Parse the comma-separated numbers of an option.

    Raises:
        typer.BadParameter: If there is none, or one is not of this kind.
    """
    try:
        numbers = tuple(kind(number) for number in text.split(",") if number.strip())
    except ValueError as error:
        raise typer.BadParameter(f"{option} is {text!r}; expected {expected}") from error
    if not all(map(math.isfinite, numbers)):
        raise typer.BadParameter(f"{option} is {text!r}; expected finite numbers")
    if not numbers:
        raise typer.BadParameter(f"{option} is empty; expected {expected}")
    return numbers
