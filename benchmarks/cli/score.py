"""`tcbench score`: score existing images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.cli import options

if TYPE_CHECKING:
    from benchmarks.resolve import ResolvedReward
    from tcbench.errors import ProblemCollector

app = typer.Typer(add_completion=False)


@app.command()
def _score(
    folder: Annotated[
        Path, typer.Argument(help="A run folder, or any folder of images.", show_default=False)
    ],
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Prompt file for a folder of images; a run has its own prompts."),
    ] = None,
    rewards: options.Rewards = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of a folder of images in leaderboards.")
    ] = None,
    device: options.Device = "auto",
    out: options.Out = Path("runs"),
    json: options.Json = False,
) -> None:
    """Score the images of a run, or of any folder.

    Images of a folder are matched to prompts by the prompt file's column `image`, otherwise by order. Several
    images of a prompt share its `prompt_id` and may be numbered in a column `sample`. A folder with a
    sub-folder for each prompt (GenEval: 00000/metadata.jsonl, 00000/samples/*.png) needs no prompt file.
    Images stay in their folder; the scores go to a run folder in --out.
    """
    from benchmarks.cli import report
    from benchmarks.cli.progress import show_progress
    from benchmarks.execution import score_run
    from benchmarks.folder import ImageFolder
    from benchmarks.resolve import resolve_rewards
    from leaderboards.run_state import HEADER
    from tcbench.errors import ConfigError, ProblemCollector
    from tcbench.files import check_writable
    from textcraftor.diffusion.devices import find_device

    is_run = (folder / HEADER).is_file()
    if is_run and prompts is not None:
        raise ConfigError(f"{folder} is a run, which has its own prompts: omit --prompts")
    # matched before rewards are resolved, because that names what is missing; written after it
    images = None if is_run else ImageFolder.read(folder, prompts)
    names = _reward_names(folder if is_run else None, rewards)

    def find(problems: ProblemCollector, fetch: bool) -> tuple[Sequence[ResolvedReward] | None, str | None]:
        if not is_run:
            problems.run(lambda: check_writable(out))
        chosen = problems.run(lambda: find_device(device))
        return problems.run(lambda: resolve_rewards(names, fetch=fetch)), chosen

    resolved, chosen = ProblemCollector.before_downloads(find, fetch=True)
    assert resolved is not None
    assert chosen is not None
    path = images.adopt(out, name).path if images else folder
    with show_progress() as progress:
        result = score_run(path, resolved, chosen, progress)
    raise typer.Exit(report.show_result(result, json))


def _reward_names(run: Path | None, rewards: str | None) -> tuple[str, ...]:
    """The rewards of --rewards, or those that a run was planned with."""
    from benchmarks.resolve import expand_presets
    from leaderboards.run_state import RunState
    from tcbench.errors import ConfigError

    details = RunState(run).header.details if run else {}
    names = expand_presets(
        options.names(rewards) or details.get("rewards", ()), details.get("domain", "open")
    )
    if not names:
        raise ConfigError("no rewards given: use --rewards NAME,NAME; `tcbench ls rewards` lists them")
    return names
