"""Sweeps: rewards against the strength of a tuned encoder, and against its number of tuned steps.

Each point is a system with its own run folder, so it can be scored, compared and shown like any other system.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.execution import execute_plan
from benchmarks.mixes import mix_encoders
from benchmarks.planning import Request, plan_run
from benchmarks.systems import System
from leaderboards.pictures import ROUNDING, image_table, png, shown_keys
from leaderboards.run_state import RunState
from leaderboards.scores import RunScores
from leaderboards.stats import Estimate, mean_intervals
from tcbench.errors import ConfigError
from tcbench.files import write_atomically
from tcbench.progress import Progress
from textcraftor.diffusion.runner import ORIGINAL
from textcraftor.io.system import SYSTEM_FILE

_SHOWN = 4
"""Number of prompts in the grid of images."""

_HEADER = (
    "strength,tuned_steps,reward,mean,change,change_low,change_high,step,step_low,step_high,prompts,planned"
)


@dataclass(frozen=True)
class Sweep:
    """A sweep to run."""

    model: str
    """A system with a tuned text encoder."""
    out: Path
    """Folder for systems, runs, table and figures."""
    strengths: tuple[float, ...]
    """Weights of the tuned encoder; the original one has the rest."""
    tuned_steps: tuple[int, ...] = ()
    """Numbers of last steps that use the mix; empty: that of the model."""
    suite: str | None = None
    """Prompt suite; None: the model's own."""
    rewards: Sequence[str] | None = None
    """Rewards to score with; None: the model's own."""
    prompts: Path | None = None
    """Prompt file, or folder of the suite's files."""
    limit: int | None = None
    """Number of prompts; None: all."""
    device: str = "auto"


@dataclass(frozen=True)
class _Point:
    """One system of a sweep."""

    strength: float
    """Weight of the tuned encoder; the original one has the rest."""
    tuned_steps: int
    """Number of last steps that use the mix."""
    folder: Path
    """Folder of the system."""


@dataclass(frozen=True)
class _Row:
    """One reward at one point."""

    point: _Point
    reward: str
    mean: float
    change: Estimate
    """Change from the lowest strength, paired by prompt."""
    step: Estimate
    """Change from the next lower strength, paired by prompt."""
    prompts: int
    """Prompts with a score, which the mean is over."""
    planned: int
    """Prompts of the run."""


def run_sweep(sweep: Sweep, progress: Progress) -> Iterator[Path]:
    """Generate and score the images of every point; finished ones are not repeated.

    Yields:
        The files sweep.csv, curves.png and grid.png when they are written.
    """
    system = System.find(sweep.model)
    numbers = sweep.tuned_steps or tuple(window.steps(system.schedule) for window in system.windows[-1:])
    if not numbers:
        raise ConfigError(f"{sweep.model} has no tuned text encoder; give a training run or a mix")
    points = _write_systems(system, sweep.model, sorted(sweep.strengths), numbers, sweep.out)
    runs: dict[_Point, RunState] = {}
    for number, point in enumerate(points, 1):
        progress.note(
            f"{number} of {len(points)}: strength {point.strength:g}, {point.tuned_steps} tuned steps"
        )
        request = Request(
            model=str(point.folder),
            suite=sweep.suite,
            rewards=sweep.rewards,
            prompts=sweep.prompts,
            limit=sweep.limit,
            device=sweep.device,
            out=sweep.out / "runs",
        )
        runs[point] = execute_plan(plan_run(request), progress).run
    rows = list(_rows(runs))
    yield _write(sweep.out / "sweep.csv", "\n".join([_HEADER, *map(_csv_line, rows)]).encode() + b"\n")
    yield _write(sweep.out / "curves.png", _curves(rows))
    yield _write(sweep.out / "grid.png", _grid(runs))


def _write_systems(
    system: System, model: str, strengths: Sequence[float], tuned_steps: Iterable[int], out: Path
) -> list[_Point]:
    """Write a system for each strength of a tuned encoder and each number of tuned steps.

    Systems that an earlier start wrote are kept.
    """
    points = []
    for number in tuned_steps:
        system.with_schedule(tuned_steps=number)  # raises for an invalid number before anything is written
        for strength in strengths:
            # the name is that of earlier versions, so that their sweeps can be resumed
            folder = out / "systems" / f"{system.name}-{strength:g}-last-{number}"
            weights = {model: strength, ORIGINAL: 1 - strength}
            if not (folder / SYSTEM_FILE).exists():
                mix_encoders(weights, folder, tuned_steps=number)
            points.append(_Point(strength, number, folder))
    return points


def _rows(runs: Mapping[_Point, RunState]) -> Iterator[_Row]:
    """Compare every reward at every point with lower strengths, paired by prompt."""
    scores = {point: _prompt_scores(run) for point, run in runs.items()}
    for tuned_steps in dict.fromkeys(point.tuned_steps for point in runs):
        line = [point for point in runs if point.tuned_steps == tuned_steps]  # by increasing strength
        for reward in scores[line[0]]:
            for index, point in enumerate(line):
                values = scores[point][reward]
                before = scores[line[max(0, index - 1)]][reward]
                yield _Row(
                    point,
                    reward,
                    float(np.mean(list(values.values()))),
                    _paired_change(values, scores[line[0]][reward]),
                    _paired_change(values, before),
                    prompts=len(values),
                    planned=len(runs[point].header.planned.prompt_ids),
                )


def _prompt_scores(run: RunState) -> dict[str, dict[int, float]]:
    """Return mean scores by reward and prompt id."""
    by_reward = {scored.score_set.reward: scored.by_prompt for scored in RunScores.read(run).scored}
    return {
        reward: dict(zip(prompts.tolist(), means.tolist(), strict=True))
        for reward, (prompts, means) in by_reward.items()
    }


def _paired_change(now: Mapping[int, float], before: Mapping[int, float]) -> Estimate:
    """Return the mean change over the prompts that have both scores, with its interval."""
    both = sorted(now.keys() & before.keys())
    (change,) = mean_intervals([[now[prompt] - before[prompt] for prompt in both]])
    return change


def _csv_line(row: _Row) -> str:
    numbers = [row.mean, *(v for e in (row.change, row.step) for v in (e.value, e.low, e.high))]
    point = [f"{row.point.strength:g}", str(row.point.tuned_steps)]
    counts = [str(row.prompts), str(row.planned)]
    return ",".join([*point, row.reward, *(f"{number:.6g}" for number in numbers), *counts])


def _curves(rows: Sequence[_Row]) -> bytes:
    """Plot change against strength: one panel per reward, one line per number of tuned steps.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.reward for row in rows))
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        for number in dict.fromkeys(row.point.tuned_steps for row in rows):
            line = [row for row in rows if row.reward == name and row.point.tuned_steps == number]
            strengths = [row.point.strength for row in line]
            label = f"{number} tuned steps"
            axis.plot(strengths, [row.change.value for row in line], marker="o", label=label)
            axis.fill_between(
                strengths, [row.change.low for row in line], [row.change.high for row in line], alpha=0.2
            )
        fewest = min((row for row in rows if row.reward == name), key=lambda row: row.prompts - row.planned)
        missing = fewest.prompts < fewest.planned
        note = f" (n ≥ {fewest.prompts} of {fewest.planned})" if missing else ""
        axis.set_title(name + note, fontsize=10, parse_math=False)
        axis.axhline(0, linestyle="--", linewidth=0.8, color="grey")
        if max(map(abs, axis.dataLim.intervaly)) < ROUNDING:
            axis.set_ylim(-1, 1)  # zero, and no scale of rounding errors
    figure.supxlabel("strength of the tuned encoder", fontsize=9)
    figure.supylabel("paired change, 95 % interval", fontsize=9)
    axes.flat[0].legend(fontsize=8)
    return png(figure)


def _grid(runs: Mapping[_Point, RunState]) -> bytes:
    """Lay out images of the first prompts: one column per strength, one row per prompt and tuned steps.

    Returns:
        A PNG file.
    """
    numbers = list(dict.fromkeys(point.tuned_steps for point in runs))
    strengths = list(dict.fromkeys(point.strength for point in runs))
    by_cell = {(point.strength, point.tuned_steps): run for point, run in runs.items()}
    samples = {cell: run.samples for cell, run in by_cell.items()}
    rows = []
    for key in shown_keys(list(runs.values()), _SHOWN):
        text = samples[strengths[0], numbers[0]][key].prompt
        for number in numbers:
            label = text if len(numbers) == 1 else f"{text} [{number} tuned steps]"
            cells = [(strength, number) for strength in strengths]
            rows.append((label, [by_cell[cell].image_path(samples[cell][key]) for cell in cells]))
    return png(image_table(rows, [f"{strength:g}" for strength in strengths]))


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path
