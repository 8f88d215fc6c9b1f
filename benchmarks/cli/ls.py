"""`tcbench ls`: list models, rewards, suites and runs. Needs no torch."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.cli import options
from benchmarks.cli.tables import text_table

if TYPE_CHECKING:
    from rewards.info import RewardInfo

app = typer.Typer(add_completion=False)

Row = dict[str, Any]


class _Kind(StrEnum):
    """What `tcbench ls` lists."""

    models = "models"
    rewards = "rewards"
    suites = "suites"
    runs = "runs"


@app.command()
def _ls(
    kind: Annotated[_Kind, typer.Argument(help="What to list.", show_default=False)],
    out: options.Out = Path("runs"),
    json: options.Json = False,
) -> None:
    """List models, rewards, suites or runs."""
    listing: Mapping[_Kind, Callable[[], list[Row]]] = {
        _Kind.models: _models,
        _Kind.rewards: _rewards,
        _Kind.suites: _suites,
        _Kind.runs: lambda: _runs(out),
    }
    rows = listing[kind]()
    print(json_.dumps(rows, indent=1) if json else text_table(rows) or f"no {kind}")


def _models() -> list[Row]:
    from benchmarks.systems import SYSTEMS

    return [
        {
            "model": system.name,
            "suite": system.suite,
            "steps": system.schedule.steps,
            "guidance": system.schedule.guidance,
            "pipeline": system.pipeline if system.gigabytes else "shipped",
            "to fetch": f"{system.gigabytes} GB" if system.gigabytes else "nothing",
        }
        for system in SYSTEMS.values()
    ]


def _rewards() -> list[Row]:
    return [
        {
            "reward": record.name,
            "role": record.role,
            "family": record.family,
            "range": "{:g} to {:g}".format(*record.typical_range),
            "better": "higher" if record.higher_is_better else "lower",
            "gradient": "yes" if record.differentiable else "no",
            "here": _here(record),
            "licence": record.licence,
        }
        for record in reward_records()
    ]


def reward_records() -> list[RewardInfo]:
    """Return the records of all rewards. A plug-in that cannot be imported is reported and left out."""
    from rewards.registry import info, list_rewards

    records = []
    for name in list_rewards():
        try:
            records.append(info(name))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
    return records


def _here(record: RewardInfo) -> str:
    """Return "shipped" for weights in the package, "yes" if all are on this machine, otherwise "no"."""
    from rewards.weights.locate import locate_file
    from tcbench.errors import MissingFiles

    try:
        files = [locate_file(record, file) for file in record.weights]
    except MissingFiles:
        return "no"
    return "yes" if any(file.origin for file in files) else "shipped"


def _suites() -> list[Row]:
    from benchmarks.suites import SUITES, find_suite

    records = [find_suite(name) for name in SUITES]
    return [
        {
            "suite": record.name,
            "prompts": record.count,
            "here": "yes" if record.is_present() else "no",
            "what": record.title,
            "licence": record.licence,
            "from": record.homepage,
        }
        for record in records
    ]


def _runs(out: Path) -> list[Row]:
    from leaderboards.run_state import HEADER, find_runs

    if not any(out.glob(f"*/{HEADER}")):
        return []
    return [
        {
            "run": str(run.path),
            "images": f"{run.images} of {run.header.planned.count}",
            "rewards": ",".join(column.reward for column in run.score_sets),
            "notes": "; ".join(run.header.watermarks),
        }
        for run in find_runs([out])
    ]
