"""`tcbench train`: tune a model's text encoder with rewards."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import options

SUITE = "suite:"
"""What a suite's name begins with: "world" alone is the world's training prompts, not its held-out suite."""


def train(
    model: options.Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of this run; the same command goes on in it.")
    ],
    rewards: Annotated[
        str | None, typer.Option("--rewards", "-r", help="What is maximised: name=weight,name=weight@cap.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="A prompt file, suite:NAME, or hub:ID[@revision][:column]."),
    ] = None,
    profile: Annotated[
        str,
        typer.Option("--profile", help="default, paper, official-code, ddpo, rewriter or quick."),
    ] = "default",
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file with fields of TrainConfig.")
    ] = None,
    updates: Annotated[int | None, typer.Option("--updates", min=1, help="Optimiser steps.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of prompts' order and noise.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of TrainConfig: name=value.", metavar="NAME=VALUE"),
    ] = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Tune a text encoder end to end by the gradients of rewards (TextCraftor).

    The folder it makes is a model for `tcbench run --model`. Killed at any moment, the same command ends with
    the very weights it would have had. Several GPUs: accelerate launch --module tcbench.launch train ...
    """
    from dataclasses import asdict
    from json import dumps

    from benchmarks.cli.progress import show_progress
    from benchmarks.suites import prompt_set
    from textcraftor.config import make_config
    from textcraftor.sources import of_texts

    source = None
    if prompts is not None and prompts.startswith(SUITE):
        name = prompts.removeprefix(SUITE)
        source = of_texts(prompts, [prompt.text for prompt in prompt_set(name).prompts])
    made = make_config(
        model,
        profile=profile,
        file=config,
        settings=settings or (),
        rewards=rewards,
        prompts=prompts,
        updates=updates,
        seed=seed,
    )
    if dry_run:
        values = asdict(made)
        print(dumps(values, indent=1) if json else "\n".join(f"{k:<20} {v}" for k, v in values.items()))
        return
    from textcraftor.train import train as run

    with show_progress() as shown:
        trained = run(made, out, device=device, progress=shown, prompts=source)
    if not trained.main:
        return
    if json:
        print(dumps({"path": str(trained.path), "updates": trained.updates, "best": trained.best}))
    else:
        print(
            f"trained: {trained.path}  {trained.updates} updates, the checkpoint after {trained.best} is used"
        )
        print(f"next: {shlex.join(['tcbench', 'run', '--model', str(trained.path)])}")
