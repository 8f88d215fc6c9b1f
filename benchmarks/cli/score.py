"""`tcbench score`: scores for images that are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.cli import options

if TYPE_CHECKING:
    from leaderboards.records import RunFolder


def score(
    folder: Annotated[
        Path, typer.Argument(help="A run folder, or any folder of images.", show_default=False)
    ],
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Prompt file for a folder of images; a run knows its prompts."),
    ] = None,
    rewards: options.Rewards = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What a leaderboard calls a folder of images.")
    ] = None,
    device: options.Device = "auto",
    out: options.Out = Path("runs"),
    json: options.Json = False,
) -> None:
    """Score the images of a run, or of any folder.

    The images of a folder are matched to prompts by the prompt file's column `image`, else by order. They
    stay where they are; the scores go to a run folder below --out.
    """
    from benchmarks.cli import report
    from benchmarks.cli.progress import progress
    from benchmarks.columns import find_columns
    from benchmarks.run import score_run
    from textcraftor.diffusion.devices import find_device

    names = _rewards(folder, prompts, rewards)
    columns = find_columns(names)
    run = _run(folder, prompts, out, name)
    with progress() as shown:
        outcome = score_run(run, columns, find_device(device), shown)
    command = report.leaderboard_command(outcome.path)
    raise typer.Exit(report.show_outcome(outcome, json, next_command=command))


def _rewards(folder: Path, prompts: Path | None, given: str | None) -> list[str]:
    """The rewards asked for, or the ones a run was made for. Raises ValueError for a wrong folder."""
    from benchmarks.columns import expanded
    from leaderboards.records import HEADER, RunFolder

    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}: give a run folder or a folder of images")
    is_run = (folder / HEADER).is_file()
    if is_run and prompts is not None:
        raise ValueError(f"{folder} is a run and knows its prompts: leave --prompts out")
    if not is_run and prompts is None:
        raise ValueError(f"{folder} is no run folder: say what its images show with --prompts FILE")
    details = RunFolder(folder).header.details if is_run else {}
    names = expanded(options.names(given) or details.get("rewards", ()), details.get("domain", "open"))
    if not names:
        raise ValueError("say which rewards: --rewards NAME,NAME; `tcbench ls rewards` lists them")
    return names


def _run(folder: Path, prompts: Path | None, out: Path, name: str | None) -> RunFolder:
    from benchmarks.folder import adopt
    from leaderboards.records import RunFolder

    return adopt(folder, prompts, out, name) if prompts is not None else RunFolder(folder)
