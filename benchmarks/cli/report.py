"""Print plans and results: a few lines for people, one JSON object for pipes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.execution import RunResult
from benchmarks.planning import Plan
from leaderboards.records import Key

_COMPLETE, _INCOMPLETE = 0, 3


def show_plan(plan: Plan, as_json: bool) -> None:
    """Print a plan to stdout."""
    record = _plan_record(plan)
    print(json.dumps(record, indent=1) if as_json else _lines(record))


def show_result(result: RunResult, as_json: bool, *, next_command: str) -> int:
    """Print a run's result to stdout and its warnings to stderr.

    Returns:
        The exit code: 0 if the run is complete, 3 if images or scores are missing.
    """
    if as_json:
        print(json.dumps(_result_record(result), indent=1))
    else:
        _print_result(result)
        print(f"next: {next_command}")
    return _COMPLETE if result.complete else _INCOMPLETE


def leaderboard_command(result: RunResult) -> str:
    """Return the command that compares all runs in the same folder, with this run as the baseline."""
    path, header = result.path, result.run.header
    # only folder names are read: a damaged run in the same folder must not break this output
    twins = list(path.parent.glob(f"{path.name.removesuffix(header.generation_id)}*"))
    name = header.system if len(twins) == 1 else f"{header.system}@{header.generation_id}"
    return shlex.join(["tcbench", "leaderboard", str(path.parent), "--baseline", name, "--out", "board"])


def _plan_record(plan: Plan) -> dict[str, Any]:
    planned = plan.header.planned
    return {
        "run": str(plan.path),
        "system": plan.system.name,
        "suite": plan.prompts.name,
        "prompts": len(planned.prompt_ids),
        "of": planned.of,
        "seeds": planned.seeds,
        "images": planned.count,
        "rewards": [reward.info.name for reward in plan.rewards],
        "pipeline": str(plan.pipeline),
        "settings": dict(plan.header.generation),
        "batch_size": plan.batch_size,
        "device": plan.device,
        "watermarks": list(plan.header.watermarks),
    }


def _result_record(result: RunResult) -> dict[str, Any]:
    return {
        "run": str(result.path),
        "complete": result.complete,
        "planned": result.planned,
        "images": result.images,
        "made_now": result.added,
        "truncated_prompts": result.truncated,
        "watermarks": list(result.run.header.watermarks),
        "missing": _reasons(result.missing),
        "rewards": [
            {
                "reward": summary.reward,
                "score_id": summary.score_id,
                "mean": summary.mean,
                "scored": summary.scored,
                "abstained": summary.abstained,
                "failed": _reasons(summary.failed),
                "truncated_prompts": summary.truncated,
            }
            for summary in result.rewards
        ],
    }


def _reasons(reasons: Mapping[Key, str]) -> list[dict[str, Any]]:
    return [
        {"prompt_id": prompt, "sample": sample, "reason": why} for (prompt, sample), why in reasons.items()
    ]


def _print_result(result: RunResult) -> None:
    if not result.added and result.complete:
        print("nothing to do: all images and scores exist")
    for summary in result.rewards:
        mean = "no score" if summary.mean is None else f"{summary.mean:.4f}"
        notes = [f"{summary.scored} of {result.planned}"]
        notes += [f"{summary.abstained} not judged"] if summary.abstained else []
        notes += [f"{summary.truncated} prompts truncated"] if summary.truncated else []
        if summary.failed:
            notes.append(f"{len(summary.failed)} failed: {next(iter(summary.failed.values()))}")
        print(f"  {summary.reward:<18} {mean:>10}  ({', '.join(notes)})")
    if result.missing:
        reason = next(iter(result.missing.values()))
        print(f"missing images: {len(result.missing)} ({reason})", file=sys.stderr)
    if result.truncated:
        print(
            f"{result.truncated} prompts are longer than the pipeline's text encoder reads", file=sys.stderr
        )
    watermarks = result.run.header.watermarks
    marks = f" [{'; '.join(watermarks)}]" if watermarks else ""
    print(f"run: {result.path}  {result.images} of {result.planned} images{marks}")
    if (compared := result.run.header.planned) != result.run.plan:
        size = f"{len(compared.prompt_ids)} prompts × {compared.seeds} images"
        print(f"boards compare {size}: the widest start of this run that was finished")


def _lines(record: Mapping[str, Any]) -> str:
    """One "key value" line per entry; the generation settings come last."""
    settings = {key: value for key, value in record["settings"].items() if value not in (None, "")}
    shown = {key: value for key, value in record.items() if key != "settings"} | settings
    texts = {k: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in shown.items()}
    return "\n".join(f"{key:<20} {text}" for key, text in texts.items())
