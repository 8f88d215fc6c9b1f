"""Print plans and results: a few lines for people, one JSON object for pipes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.execution import RunResult
from benchmarks.planning import Plan
from benchmarks.systems import CHANGES, System
from leaderboards.records import Key
from leaderboards.run_state import HEADER, RunState
from tcbench.errors import FileFormatError, TcbenchError
from textcraftor.diffusion.models import Model
from textcraftor.diffusion.schedule import Schedule

_COMPLETE, _INCOMPLETE = 0, 3

_MOST_LINES = 10
"""Most lines of one kind of failure."""


def show_plan(plan: Plan, as_json: bool) -> None:
    """Print a plan to stdout."""
    record = _plan_record(plan)
    print(json.dumps(record, indent=1) if as_json else _lines(record))


def show_result(result: RunResult, as_json: bool, *, next_command: str = "") -> int:
    """Print a run's result and the command that comes next to stdout, and its warnings to stderr.

    Args:
        result: The result.
        as_json: Print one JSON object instead, without the next command.
        next_command: The command; by default a board, or the run that a board needs.

    Returns:
        The exit code: 0 if the run is complete, 3 if images or scores are missing.
    """
    if as_json:
        print(json.dumps(_result_record(result), indent=1))
    else:
        _print_result(result)
        print(f"next: {next_command or _next_command(result)}")
    return _COMPLETE if result.complete else _INCOMPLETE


def _next_command(result: RunResult) -> str:
    """A board against a baseline, or the run of the baseline that it needs.

    A board compares with the system that changes its base model least, such as the original model of a tuned
    encoder, and with the run itself only if it is that system.
    """
    own, folder = result.run, result.path.parent
    runs = [own, *(run for run in _others(folder, own) if run.header.suite_sha256 == own.header.suite_sha256)]
    # of runs with equally few changes, prefer another one
    baseline = min(runs, key=lambda run: (_changes(run), run is own, run.path))
    pipeline = _base_model(own.header.details)
    if baseline is own and not pipeline:  # images or scores from elsewhere
        return _board(folder, "BASELINE")
    if baseline is own and any(own.header.details.get(name) for name in CHANGES):
        return _baseline_run(own, pipeline)
    name = baseline.header.system
    if sum(run.header.system == name for run in runs) > 1:
        name = f"{name}@{baseline.header.generation_id}"
    return _board(folder, name)


def _others(folder: Path, own: RunState) -> Iterator[RunState]:
    """The other runs in a folder. Damaged ones are left out, because they must not break the output."""
    for file in sorted(folder.glob(f"*/{HEADER}")):
        if file.parent.name != own.path.name:
            with suppress(FileFormatError, OSError, UnicodeError):
                yield RunState(file.parent)


def _changes(run: RunState) -> int:
    """Number of ways in which a system differs from a base model; rewards that are not declared count."""
    details = run.header.details
    undeclared = details.get("trained_on") is None
    return sum(bool(details.get(name)) for name in (*CHANGES, "trained_on")) + undeclared


def _base_model(details: Mapping[str, Any]) -> str:
    """The base model of a system as ``--model`` takes it; "" if the run does not say."""
    pipeline, revision = details.get("pipeline", ""), details.get("revision")
    return Model.name_of(pipeline, revision) or (f"{pipeline}@{revision}" if revision else pipeline)


def _baseline_run(run: RunState, model: str) -> str:
    """The command that generates and scores the same samples with another model."""
    from benchmarks.suites import SUITES

    suite, plan = run.header.suite, run.header.planned
    prompts = ["--suite", suite] if suite in SUITES else ["--prompts", "FILE"]
    limit = ["--limit", str(len(plan.prompt_ids))] if len(plan.prompt_ids) < plan.of else []
    seeds = ["--seeds", str(plan.seeds)] if plan.seeds > 1 else []
    command = ["tcbench", "run", "--model", model, *prompts, *limit, *seeds, *_sampling(run, model)]
    return shlex.join([*command, "--out", str(run.path.parent)])


def _sampling(run: RunState, model: str) -> list[str]:
    """The options that sample a model as a run was sampled, as far as they differ from the defaults."""
    defaults = Schedule()
    with suppress(TcbenchError):  # the model may have moved since
        defaults = System.find(model).schedule
    expected = {"base_seed": 0, "steps": defaults.steps, "guidance": defaults.guidance}
    settings = {name: run.header.generation.get(name, default) for name, default in expected.items()}
    return [
        word
        for name, value in settings.items()
        if value != expected[name]
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def _board(folder: Path, baseline: str) -> str:
    return shlex.join(["tcbench", "leaderboard", str(folder), "--baseline", baseline, "--out", "board"])


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
        "compute_per_image": plan.header.details["compute_per_image"],
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
        "watermarks": list(result.watermarks),
        "missing": _reasons(result, result.missing),
        "rewards": [
            {
                "reward": summary.reward,
                "score_id": summary.score_id,
                "mean": summary.mean,
                "scored": summary.scored,
                "abstained": summary.abstained,
                "failed": _reasons(result, summary.failed),
                "truncated_prompts": summary.truncated,
            }
            for summary in result.rewards
        ],
    }


def _reasons(result: RunResult, reasons: Mapping[Key, str]) -> list[dict[str, Any]]:
    samples = result.run.samples
    return [
        {
            "prompt_id": key[0],
            "sample": key[1],
            "image": samples[key].image if key in samples else None,
            "reason": why,
        }
        for key, why in reasons.items()
    ]


def _print_result(result: RunResult) -> None:
    if not result.added and result.complete:
        print("nothing to do: all images and scores exist")
    for summary in result.rewards:
        mean = "no score" if summary.mean is None else f"{summary.mean:.4f}"
        notes = [f"{summary.scored} of {result.planned}"]
        notes += [f"{summary.abstained} not judged"] if summary.abstained else []
        notes += [f"{summary.truncated} prompts truncated"] if summary.truncated else []
        notes += [f"{len(summary.failed)} failed"] if summary.failed else []
        print(f"  {summary.reward:<18} {mean:>10}  ({', '.join(notes)})")
    for line in [*_failed_lines(result), *_missing_lines(result)]:
        print(line, file=sys.stderr)
    if result.truncated:
        print(
            f"{result.truncated} prompts are longer than the pipeline's text encoder reads", file=sys.stderr
        )
    marks = f" [{'; '.join(result.watermarks)}]" if result.watermarks else ""
    print(f"run: {result.path}  {result.images} of {result.planned} images{marks}")
    if (compared := result.run.header.planned) != result.run.plan:
        images = f"{compared.seeds} image{'s' if compared.seeds > 1 else ''}"
        size = f"{len(compared.prompt_ids)} prompts × {images}"
        print(f"boards compare {size}, the largest set that a start has finished")


def _failed_lines(result: RunResult) -> list[str]:
    """One line per image that has no score: its file, the reason, and the rewards that it concerns."""
    rewards: dict[tuple[Key, str], list[str]] = {}
    for summary in result.rewards:
        for key, reason in summary.failed.items():
            rewards.setdefault((key, reason), []).append(summary.reward)
    lines = []
    for (key, reason), names in rewards.items():
        image = result.run.samples[key].image or f"prompt {key[0]}, image {key[1]}"
        # Reasons of files that cannot be read name the file already.
        lines.append(f"failed: {reason if image in reason else f'{image}: {reason}'} ({', '.join(names)})")
    return _shortened(lines)


def _missing_lines(result: RunResult) -> list[str]:
    """One line per sample without an image, with the reason."""
    lines = [f"missing: prompt {key[0]}, image {key[1]}: {why}" for key, why in result.missing.items()]
    return ([f"missing images: {len(lines)}"] if lines else []) + _shortened(lines)


def _shortened(lines: list[str]) -> list[str]:
    """Return the first lines and how many are left out; all of them are in the JSON output."""
    left = len(lines) - _MOST_LINES
    return lines if left <= 0 else [*lines[:_MOST_LINES], f"... and {left} more (--json lists all)"]


def _lines(record: Mapping[str, Any]) -> str:
    """One "key value" line per entry; the generation settings come last."""
    settings = {key: value for key, value in record["settings"].items() if value not in (None, "")}
    shown = {key: value for key, value in record.items() if key != "settings"} | settings
    texts = {k: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in shown.items()}
    return "\n".join(f"{key:<20} {text}" for key, text in texts.items())
