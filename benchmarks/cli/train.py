"""`tcbench train`: train a model's text encoder with rewards."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.cli import options
from textcraftor.config import TrainConfig, make_config
from textcraftor.profiles import PROFILES

if TYPE_CHECKING:
    from textcraftor.sources import PromptSource

app = typer.Typer(add_completion=False)


@app.command()
def _train(
    model: options.Model,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of this run. Re-run the same command to resume."),
    ],
    rewards: Annotated[
        str | None,
        typer.Option("--rewards", "-r", help="Reward mix to maximise: name=weight,name=weight@cap."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            help="Training prompts: a prompt file, suite:NAME, or hub:ID, also hub:ID@REVISION:COLUMN.",
        ),
    ] = None,
    profile: Annotated[
        str,
        typer.Option("--profile", help=f"Settings to start from: {', '.join(PROFILES)}."),
    ] = "default",
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="TOML file with settings of TrainConfig, in tables."),
    ] = None,
    updates: Annotated[int | None, typer.Option("--updates", min=1, help="Number of updates.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of prompt order and noise.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any setting of TrainConfig, such as optimiser.lr=1e-4. May be repeated.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a text encoder end to end with the gradients of rewards (TextCraftor).

    The folder is a model for `tcbench run --model`. Re-run the command to resume a run that was stopped; its
    weights are then bit-identical on a CPU. Several GPUs: accelerate launch --module tcbench.launch train ...
    """
    settings_of_run = make_config(
        model,
        profile=profile,
        file=config,
        settings=settings or (),
        overrides={
            "rewards.mix": rewards,
            "data.prompts": prompts,
            "optimiser.updates": updates,
            "seed": seed,
        },
    )
    _run(settings_of_run, out, device, dry_run=dry_run, as_json=json)


def _run(config: TrainConfig, out: Path, device: str, *, dry_run: bool, as_json: bool) -> None:
    """Train, and print the result and the next command; a dry run prints its settings."""
    from dataclasses import asdict
    from json import dumps

    from benchmarks.cli.progress import show_progress
    from textcraftor.training import train

    with show_progress() as progress:
        run = train(
            config,
            out,
            device=device,
            progress=progress,
            suites=_suite_prompts,
            dry_run=dry_run,
        )
    if not run.main:
        return
    if dry_run:
        values = asdict(config)
        print(dumps(values, indent=1) if as_json else "\n".join(_lines(values)))
    elif as_json:
        print(dumps({"path": str(run.path), "updates": run.updates, "best": run.best}))
    else:
        print(f"trained: {run.path}  {run.updates} updates; selected the checkpoint after {run.best}")
        print(f"next: {shlex.join(['tcbench', 'run', '--model', str(run.path)])}")


def _suite_prompts(name: str, fetch: bool) -> PromptSource:
    """Return the prompts of ``suite:NAME``."""
    from benchmarks.suites import prompt_set
    from textcraftor.sources import SUITE, PromptSource

    suite = prompt_set(name.removeprefix(SUITE), fetch=fetch)
    return PromptSource.from_texts(name, [prompt.text for prompt in suite.prompts])


def _lines(values: dict[str, object]) -> list[str]:
    """Return settings as TOML-like lines, in tables."""
    lines = [f"{name} = {value!r}" for name, value in values.items() if not isinstance(value, dict)]
    for name, table in values.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{key} = {value!r}" for key, value in table.items())]
    return lines
