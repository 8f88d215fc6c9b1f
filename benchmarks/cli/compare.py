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


def compare(
    before: Annotated[
        str, typer.Argument(metavar="A", help="A run folder, or a system that has one.", show_default=False)
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.", show_default=False)],
    runs: Annotated[Path, typer.Option("--runs", help="Folder of runs, to find systems by name.")] = Path(
        "runs"
    ),
    rewards: Annotated[
        str | None,
        typer.Option("--rewards", "-r", help="Which decide where the runs differ; all of them by default."),
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", min=0, help="How many losses and gains to show.")] = 5,
    json: options.Json = False,
) -> None:
    """Say what B changes against A, paired by prompt and seed, and on which prompts most.

    Differences are B minus A with their 95 % interval, the least difference that such runs would show, the
    share of prompts that B wins, and p with Holm's correction.
    """
    import json as js

    from leaderboards.differences import changes
    from leaderboards.render import comparison_rows
    from leaderboards.scores import read_scores
    from leaderboards.table import build

    pair = [_find(name, runs) for name in (before, after)]
    sections = build(pair, f"{pair[0].header.system}@{pair[0].header.generation_id}").sections
    if len(sections) > 1:
        suites = " and ".join(run.header.suite for run in pair)
        raise ValueError(f"{pair[0].path} and {pair[1].path} are runs of {suites}: compare runs of one suite")
    (section,) = sections
    old, new = (read_scores(run) for run in pair)
    found = changes(old, new, _chosen(section, options.names(rewards), pair))
    if json:
        print(js.dumps(_record(section, found), indent=1))
        return
    from benchmarks.cli.tables import text_table

    print(text_table(comparison_rows(section)), end="\n\n")
    print("\n".join(_extremes(found, prompts)))


def _chosen(section: Section, names: Sequence[str] | None, pair: Sequence[RunState]) -> list[ScoreSet]:
    """The columns that both runs have, or those of them that are named."""
    both = [column.score_set for column in section.columns]
    for run in pair:
        have = run.score_sets
        both = [
            one for one in both if any((one.reward, one.score_id) == (o.reward, o.score_id) for o in have)
        ]
    unknown = [name for name in names or () if name not in {one.reward for one in both}]
    if unknown or not both:
        known = ", ".join(one.reward for one in both) or "none in common"
        raise ValueError(
            f"not both runs were scored by {', '.join(unknown) or 'one reward'}; they have {known}"
        )
    return [one for one in both if names is None or one.reward in names]


def _find(name: str, runs: Path) -> RunState:
    """A run by its folder, or the one run of a system. Raises UnknownName, ValueError if it has several."""
    from leaderboards.run_state import HEADER, RunState, find_runs
    from tcbench.errors import UnknownName

    if (Path(name) / HEADER).is_file():
        return RunState(name)
    there = find_runs([runs]) if runs.is_dir() and any(runs.glob(f"*/{HEADER}")) else []
    called = [run for run in there if run.header.system == name]
    if not called:
        known = [run.header.system for run in there]
        raise UnknownName(f"run folder, or system with a run in {runs},", name, known)
    if len(called) > 1:
        raise ValueError(f"{name} has several runs: name one of {', '.join(str(r.path) for r in called)}")
    return called[0]


def _extremes(found: Sequence[PromptChange], count: int) -> Iterator[str]:
    losses = [one for one in found if one.change < 0][:count]
    gains = [one for one in found[::-1] if one.change > 0][:count]
    for title, part in (("losses", losses), ("gains", gains)):
        if part:
            yield f"greatest {title}:"
            yield from (f"  {one.change:+.3g}  {one.prompt!r}  {one.images[1]}" for one in part)


def _record(section: Section, found: Sequence[PromptChange]) -> dict[str, Any]:
    from dataclasses import asdict

    from leaderboards.formats import cell_record, defined

    cells = [
        cell_record(cell) for cell in section.cells.values() if cell.comparison and cell.category is None
    ]
    record = {
        "suite": section.suite,
        "baseline": section.baseline,
        "cells": cells,
        "prompts": [asdict(one) for one in found],
    }
    return dict(defined(record))
