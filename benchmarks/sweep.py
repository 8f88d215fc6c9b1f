"""Curves over how much of a tuned encoder is used, and for how many of the last steps.

Each point is a system of its own with its own run folder, so that it can be scored, compared and shown like
any other; a table and two pictures are made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.execution import execute_plan
from benchmarks.mixes import Point, sweep
from benchmarks.planning import Request, plan_run
from benchmarks.systems import find_system
from leaderboards.pictures import image_table, png, shown_keys
from leaderboards.run_state import RunState
from leaderboards.scores import read_scores
from leaderboards.stats import Estimate, mean_interval
from tcbench.files import write_atomically
from tcbench.progress import Progress

SHOWN = 4
"""Prompts in the grid, below each other for each number of last steps."""

HEAD = "strength,last_steps,reward,mean,change,change_low,change_high,step,step_low,step_high"


@dataclass(frozen=True)
class Sweep:
    """What is drawn. Without `lasts`, the checkpoint's own number of last steps."""

    model: str
    out: Path
    strengths: tuple[float, ...]
    lasts: tuple[int, ...] = ()
    suite: str | None = None
    rewards: Sequence[str] | None = None
    prompts: Path | None = None
    limit: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Row:
    """One reward at one point. ``change`` is paired with the least strength, ``step`` with the one before."""

    point: Point
    reward: str
    mean: float
    change: Estimate
    step: Estimate


def run(asked: Sweep, progress: Progress) -> Iterator[Path]:
    """Draw and score every point; yields the files that show them."""
    system = find_system(asked.model)
    lasts = asked.lasts or tuple(window.steps(system.steps) for window in system.windows[-1:])
    strengths = sorted(asked.strengths)
    points = sweep(asked.model, strengths, lasts, asked.out)
    runs: dict[Point, RunState] = {}
    for number, point in enumerate(points, 1):
        progress.note(f"{number} of {len(points)}: strength {point.strength:g}, last {point.last} steps")
        request = Request(
            model=str(point.folder),
            suite=asked.suite,
            rewards=asked.rewards,
            prompts=asked.prompts,
            limit=asked.limit,
            device=asked.device,
            out=asked.out / "runs",
        )
        runs[point] = RunState(execute_plan(plan_run(request), progress).path)
    rows = list(table(runs))
    yield _write(asked.out / "sweep.csv", "\n".join([HEAD, *map(_line, rows)]).encode() + b"\n")
    yield _write(asked.out / "curves.png", curves(rows))
    yield _write(asked.out / "grid.png", grid(runs))


def table(runs: Mapping[Point, RunState]) -> Iterator[Row]:
    """Every reward at every point, paired by prompt."""
    scores = {point: prompt_scores(run) for point, run in runs.items()}
    for last in dict.fromkeys(point.last for point in runs):
        line = [point for point in runs if point.last == last]
        for reward in scores[line[0]]:
            for place, point in enumerate(line):
                values = scores[point][reward]
                before = scores[line[max(0, place - 1)]][reward]
                yield Row(
                    point,
                    reward,
                    float(np.mean(list(values.values()))),
                    paired_change(values, scores[line[0]][reward]),
                    paired_change(values, before),
                )


def prompt_scores(run: RunState) -> dict[str, dict[int, float]]:
    """Mean scores by reward and prompt."""
    by_reward = {scored.score_set.reward: scored.by_prompt for scored in read_scores(run).scored}
    return {
        reward: dict(zip(prompts.tolist(), means.tolist(), strict=True))
        for reward, (prompts, means) in by_reward.items()
    }


def paired_change(now: Mapping[int, float], then: Mapping[int, float]) -> Estimate:
    """Mean change over the prompts that both have, with its interval."""
    both = sorted(now.keys() & then.keys())
    return mean_interval([now[prompt] - then[prompt] for prompt in both])


def _line(row: Row) -> str:
    numbers = [row.mean, *(v for e in (row.change, row.step) for v in (e.value, e.low, e.high))]
    return ",".join(
        [f"{row.point.strength:g}", str(row.point.last), row.reward, *(f"{number:.6g}" for number in numbers)]
    )


def curves(rows: Sequence[Row]) -> bytes:
    """A panel a reward: change against strength, a line for each number of last steps. PNG."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.reward for row in rows))
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        for last in dict.fromkeys(row.point.last for row in rows):
            line = [row for row in rows if row.reward == name and row.point.last == last]
            strengths = [row.point.strength for row in line]
            axis.plot(strengths, [row.change.value for row in line], marker="o", label=f"last {last} steps")
            axis.fill_between(
                strengths, [row.change.low for row in line], [row.change.high for row in line], alpha=0.2
            )
        axis.set_title(name, fontsize=10)
        axis.axhline(0, linestyle="--", linewidth=0.8, color="grey")
    figure.supxlabel("strength of the tuned encoder", fontsize=9)
    figure.supylabel("paired change, 95 % interval", fontsize=9)
    axes.flat[0].legend(fontsize=8)
    return png(figure)


def grid(runs: Mapping[Point, RunState]) -> bytes:
    """Images of the first prompts: a column a strength, rows of one prompt for each number of last steps."""
    lasts = list(dict.fromkeys(point.last for point in runs))
    strengths = list(dict.fromkeys(point.strength for point in runs))
    by_place = {(point.strength, point.last): run for point, run in runs.items()}
    samples = {place: run.samples for place, run in by_place.items()}
    rows = []
    for key in shown_keys(list(runs.values()), SHOWN):
        text = samples[strengths[0], lasts[0]][key].prompt
        for last in lasts:
            label = text if len(lasts) == 1 else f"{text} [last {last}]"
            places = [(strength, last) for strength in strengths]
            rows.append((label, [by_place[place].image_path(samples[place][key]) for place in places]))
    return png(image_table(rows, [f"{strength:g}" for strength in strengths]))


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path
