"""How plans and outcomes are told: a few lines for people, one JSON object for pipes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.run import Outcome, Plan
from leaderboards.records import RunFolder

COMPLETE, MISSING = 0, 3


def plan_record(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-ready data."""
    planned = plan.header.planned
    return {
        "run": str(plan.path),
        "system": plan.system.name,
        "suite": plan.prompts.name,
        "prompts": len(planned.prompt_ids),
        "of": planned.of,
        "seeds": planned.seeds,
        "images": planned.count,
        "rewards": [column.info.name for column in plan.columns],
        "pipeline": str(plan.pipeline),
        "settings": dict(plan.header.generation),
        "batch_size": plan.batch_size,
        "device": plan.device,
        "watermarks": list(plan.header.watermarks),
    }


def show_plan(plan: Plan, as_json: bool) -> None:
    """The plan on stdout."""
    record = plan_record(plan)
    print(json.dumps(record, indent=1) if as_json else _lines(record))


def show_outcome(outcome: Outcome, as_json: bool, *, next_command: str | None) -> int:
    """The outcome on stdout, its warnings on stderr; returns the exit code."""
    if as_json:
        print(json.dumps(outcome_record(outcome), indent=1))
    else:
        _print_outcome(outcome)
        if next_command:
            print(f"next: {next_command}")
    return COMPLETE if outcome.complete else MISSING


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON-ready data."""
    return {
        "run": str(outcome.path),
        "complete": outcome.complete,
        "planned": outcome.planned,
        "images": outcome.images,
        "made_now": outcome.made,
        "truncated_prompts": outcome.truncated,
        "watermarks": list(outcome.watermarks),
        "missing": [{"prompt_id": p, "sample": s, "reason": r} for (p, s), r in outcome.missing.items()],
        "rewards": [
            {
                "reward": column.reward,
                "score_id": column.score_id,
                "mean": column.mean,
                "scored": column.scored,
                "abstained": column.abstained,
                "failed": [{"prompt_id": p, "sample": s, "reason": r} for (p, s), r in column.failed.items()],
                "truncated_prompts": column.truncated,
            }
            for column in outcome.columns
        ],
    }


def leaderboard_command(path: Path) -> str:
    """The command that compares what lies beside the run in `path`, with the run as the baseline."""
    header = RunFolder(path).header
    # by their names alone: what else lies there, even damaged, must not spoil the end of this run
    twins = list(path.parent.glob(f"{path.name.removesuffix(header.generation_id)}*"))
    name = header.system if len(twins) == 1 else f"{header.system}@{header.generation_id}"
    return shlex.join(["tcbench", "leaderboard", str(path.parent), "--baseline", name, "--out", "board"])


def _print_outcome(outcome: Outcome) -> None:
    if not outcome.made and outcome.complete:
        print("nothing to do: all images and scores are there")
    for column in outcome.columns:
        mean = "no score" if column.mean is None else f"{column.mean:.4f}"
        notes = [f"{column.scored} of {outcome.planned}"]
        notes += [f"{column.abstained} not judged"] if column.abstained else []
        notes += [f"{column.truncated} prompts truncated"] if column.truncated else []
        notes += (
            [f"{len(column.failed)} failed: {next(iter(column.failed.values()))}"] if column.failed else []
        )
        print(f"  {column.reward:<18} {mean:>10}  ({', '.join(notes)})")
    if outcome.missing:
        print(
            f"missing images: {len(outcome.missing)} ({next(iter(outcome.missing.values()))})",
            file=sys.stderr,
        )
    if outcome.truncated:
        print(
            f"{outcome.truncated} prompts were longer than the pipeline's text encoder reads", file=sys.stderr
        )
    marks = f" [{'; '.join(outcome.watermarks)}]" if outcome.watermarks else ""
    print(f"run: {outcome.path}  {outcome.images} of {outcome.planned} images{marks}")


def _lines(record: Mapping[str, Any]) -> str:
    """One "key value" line for each entry; the settings' entries follow the others."""
    settings = {key: value for key, value in record["settings"].items() if value not in (None, "")}
    shown = {key: value for key, value in record.items() if key != "settings"} | settings
    texts = {k: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in shown.items()}
    return "\n".join(f"{key:<20} {text}" for key, text in texts.items())
