"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Named model, TOML file, diffusers folder, training run folder or hub id.",
        show_default=False,
    ),
]
Suite = Annotated[
    str | None,
    typer.Option("--suite", "-s", help="Prompt set; by default the model's own. `custom`: your prompt file."),
]
Prompts = Annotated[
    Path | None,
    typer.Option("--prompts", help="Your prompt file, or the folder with a suite's prompt files."),
]
Rewards = Annotated[
    str | None,
    typer.Option(
        "--rewards",
        "-r",
        help="Comma-separated reward names, file.py:Name, or a set of rewards: paper, default, heldout.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Use only N prompts: a seeded subset, stratified by category."),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Number of images per prompt.")]
BaseSeed = Annotated[int, typer.Option("--base-seed", min=0, help="Base seed of the initial noise.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Sampling steps; by default the model's own.")
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", min=0.0, help="Guidance scale; by default the model's own.")
]
TunedSteps = Annotated[
    int | None,
    typer.Option(
        "--tuned-steps",
        min=1,
        help="Number of last sampling steps that use the tuned encoder; by default the model's own.",
    ),
]
BatchSize = Annotated[str, typer.Option("--batch-size", help="Images per batch: auto, or a number.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, float16 or bfloat16.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run folders.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan, then exit.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def names(text: str | None, option: str = "--rewards") -> list[str] | None:
    """Split the comma-separated names of an option and drop duplicates. None stays None.

    Raises:
        typer.BadParameter: If the text contains no name.
    """
    if text is None:
        return None
    result = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not result:
        raise typer.BadParameter(f"{option} {text!r} is empty; `tcbench ls rewards` lists the names")
    return result


def batch_size(text: str) -> int | None:
    """Return None for "auto", otherwise the number.

    Raises:
        typer.BadParameter: If the text is neither.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise typer.BadParameter(f"--batch-size is {text!r}; expected auto or a whole number of at least 1")
    return int(text)
