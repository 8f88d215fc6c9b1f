"""The options that several verbs share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A named model, a TOML file, a diffusers folder or a hub id.",
        show_default=False,
    ),
]
Suite = Annotated[
    str | None,
    typer.Option("--suite", "-s", help="Prompt set; the model's own by default. `custom` for your own."),
]
Prompts = Annotated[
    Path | None, typer.Option("--prompts", help="Your prompt file, or the folder that holds a suite's files.")
]
Rewards = Annotated[
    str | None,
    typer.Option(
        "--rewards", "-r", help="Names with commas between them; paper, default, heldout; also file.py:Name."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Only N prompts: a seeded subset with every category in proportion."),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Images for each prompt.")]
BaseSeed = Annotated[int, typer.Option("--base-seed", help="Another draw of all noise.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Sampling steps; the model's own by default.")
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", min=0.0, help="Guidance scale; the model's own by default.")
]
SwitchStep = Annotated[
    int | None,
    typer.Option(
        "--switch-step", min=1, help="The last N steps are the tuned encoder's; its own by default."
    ),
]
BatchSize = Annotated[str, typer.Option("--batch-size", help="auto, or a number.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, float16 or bfloat16.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder that holds the run folders.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def names(given: str | None) -> list[str] | None:
    """Comma-separated names as a list, each once; None stays None. Raises BadParameter for an empty one."""
    if given is None:
        return None
    found = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not found:
        raise typer.BadParameter(f"--rewards {given!r} names no reward; `tcbench ls rewards` lists them")
    return found


def batch_size(given: str) -> int | None:
    """None for "auto", else the number. Raises BadParameter for anything else."""
    if given == "auto":
        return None
    if not given.isdecimal() or int(given) == 0:
        raise typer.BadParameter(f"--batch-size is {given!r}; expected auto or a whole number of at least 1")
    return int(given)


def numbers(option: str, given: str) -> list[float]:
    """Comma-separated numbers. Raises BadParameter for what is none."""
    try:
        return [float(number) for number in given.split(",") if number.strip()]
    except ValueError as error:
        raise typer.BadParameter(
            f"--{option} {given!r}: {error}; write numbers with commas between them"
        ) from error
