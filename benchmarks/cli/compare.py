"""`tcbench compare`: two runs side by side, and the prompts where they differ most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.cli import options

if TYPE_CHECKING:
    from leaderboards.board import Section
    from leaderboards.differences import PromptChange
    from leaderboards.records import ScoreSet
    from leaderboards.run_state import RunState

app = typer.Typer(add_completion=False)


@app.command()
def _compare(
    before: Annotated[
        str,
        typer.Argument(metavar="A", help="Run folder, or system with one run in --runs.", show_default=False),
    ],
    after: Annotated[
        str,
        typer.Argument(metavar="B", help="Run to compare with A, given in the same way.", show_default=False),
    ],
    runs: Annotated[Path, typer.Option("--runs", help="Folder of runs to find systems in.")] = Path("runs"),
    rewards: Annotated[
        str | None,
        typer.Option("--rewards", "-r", help="Rewards to rank the prompts by; all by default."),
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", min=0, help="Number of losses and gains to show.")] = 5,
    json: options.Json = False,
) -> None:
    """Compare run B with run A, paired by prompt and sample, and list the prompts that differ most.

    Shows the difference B minus A with its 95 % interval, the smallest difference that such runs would
    detect, the share of prompts that B wins, and p before and after Holm's correction.
    """
    import json as js

    from benchmarks.systems import System
    from leaderboards.builder import build
    from leaderboards.differences import changes
    from leaderboards.render import comparison_rows
    from leaderboards.scores import RunScores

    pair = [_open_run(name, runs) for name in (before, after)]
    baseline = f"{pair[0].header.system}@{pair[0].header.generation_id}"
    sections = build(pair, baseline, unknown_rewards=System.unknown_rewards).sections
    if len(sections) > 1:
        suites = " and ".join(run.header.suite for run in pair)
        raise ValueError(f"{pair[0].path} and {pair[1].path} are runs of {suites}; give runs of one suite")
    (section,) = sections
    old, new = (RunScores.read(run) for run in pair)
    prompt_changes = changes(old, new, _columns(section, options.names(rewards), pair))
    if json:
        print(js.dumps(_record(section, prompt_changes), indent=1))
        return
    from benchmarks.cli.tables import text_table

    print(text_table(comparison_rows(section)), end="\n\n")
    for entry in section.entries:
        if notes := section.notes_on(entry):
            print(f"{entry.label}: {notes}")
    print("\n".join(_extremes(prompt_changes, prompts)))


def _columns(section: Section, names: Sequence[str] | None, pair: Sequence[RunState]) -> list[ScoreSet]:
    """Return the rewards with scores in both runs; only the named ones if names are given."""
    from tcbench.errors import TcbenchError

    both = [column.score_set for column in section.columns]
    for run in pair:
        ids = {(score_set.reward, score_set.score_id) for score_set in run.score_sets}
        both = [score_set for score_set in both if (score_set.reward, score_set.score_id) in ids]
    unknown = [name for name in names or () if name not in {score_set.reward for score_set in both}]
    if unknown or not both:
        common = TcbenchError.listed(score_set.reward for score_set in both)
        raise ValueError(
            f"both runs must have scores by {', '.join(unknown) or 'the same reward'}; in common: {common}"
        )
    return [score_set for score_set in both if names is None or score_set.reward in names]


def _open_run(name: str, runs: Path) -> RunState:
    """Open a run by its folder, or the only run of a system.

    Raises:
        UnknownName: If there is no such run.
        TcbenchError: If the system has several runs.
    """
    from leaderboards.run_state import HEADER, RunState, find_runs
    from tcbench.errors import TcbenchError, UnknownName

    if (Path(name) / HEADER).is_file():
        return RunState(name)
    available = find_runs([runs]) if runs.is_dir() and any(runs.glob(f"*/{HEADER}")) else []
    matches = [run for run in available if run.header.system == name]
    if not matches and Path(name).exists():
        return RunState(name)  # says why it is no run folder
    if not matches:
        raise UnknownName("run", name, [run.header.system for run in available], source=str(runs))
    if len(matches) > 1:
        paths = TcbenchError.listed(run.path for run in matches)
        raise TcbenchError(f"{name} has several runs; give one of {paths}")
    return matches[0]


def _extremes(prompt_changes: Sequence[PromptChange], count: int) -> Iterator[str]:
    losses = [change for change in prompt_changes if change.change < 0][:count]
    gains = [change for change in prompt_changes[::-1] if change.change > 0][:count]
    for title, part in (("losses", losses), ("gains", gains)):
        if part:
            yield f"largest {title}:"
            yield from (f"  {one.change:+.3g}  {one.prompt!r}  {one.images[1] or 'no image'}" for one in part)


def _record(section: Section, prompt_changes: Sequence[PromptChange]) -> dict[str, Any]:
    from dataclasses import asdict

    from leaderboards.formats import defined

    cells = [cell.record() for cell in section.cells.values() if cell.comparison and cell.category is None]
    record = {
        "suite": section.suite,
        "baseline": section.baseline,
        "cells": cells,
        "prompts": [asdict(change) for change in prompt_changes],
    }
    return dict(defined(record))
