"""Updates over all processes: what the log shows, and whether a run still learns."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from torch import Tensor

from rewards.combine.mix import RewardMix
from rewards.combine.terms import MixTerm
from tcbench.errors import ConfigError, TcbenchError
from tcbench.progress import Progress
from textcraftor.algorithms.base import TRAINED, StepResult
from textcraftor.processes import Processes
from textcraftor.sources import SampleOrder

_LIMIT = 20
"""Samples in a row that are not finite or give no learning signal, after which a run ends or notes it."""

_Numbers = dict[str, tuple[Callable[[Iterable[float]], float], float]]
"""Numbers of one process, each with the function that combines those of all processes: a sum, min or max."""


@dataclass(frozen=True)
class _WorkCounts:
    """Work of one update."""

    samples: int
    skipped: int
    """Samples whose rewards or gradients were not finite."""
    scored: int
    """Images that were decoded and scored."""
    unet_rows: int
    """Rows through the UNet."""
    unet_graphs: int
    """UNet rows that had a backward pass."""
    unet_saved: int
    """Rows that the prefix cache saved."""


@dataclass(frozen=True)
class _RewardTotals:
    """One reward's scores of an update."""

    bad_scores: int
    """Samples whose score is not finite."""
    bad_gradients: int
    """Samples whose gradient is not finite."""
    pull: float | None
    """Greatest length of a gradient; None for methods without reward gradients."""
    scores: tuple[float, float]
    """Lowest and highest score that is not skipped; infinite without one."""
    values: tuple[float, float]
    """Lowest and highest value of the mix's term."""

    @classmethod
    def of(cls, name: str, totals: Mapping[str, float]) -> _RewardTotals:
        return cls(
            int(totals[f"bad_scores/{name}"]),
            int(totals.get(f"bad_gradients/{name}", 0)),
            totals.get(f"highest_pull/{name}"),
            (totals[f"lowest_score/{name}"], totals[f"highest_score/{name}"]),
            (totals[f"lowest_value/{name}"], totals[f"highest_value/{name}"]),
        )


@dataclass(frozen=True)
class UpdateTotals:
    """One update over all processes."""

    counts: _WorkCounts
    row: Mapping[str, float | None]
    """For the log: peak memory so far in MiB, of the process that needs most, and means over all samples that
    were not skipped; None for a mean over no sample.
    """
    rewards: Mapping[str, _RewardTotals]
    """By the reward's name in the mix."""
    grad_norm: float
    interrupted: bool
    """Whether a process was asked to stop."""
    first_skipped: int | None
    """Number of the first skipped sample."""
    first: int
    """Number of the first sample."""

    @classmethod
    def gather(
        cls,
        processes: Processes,
        result: StepResult,
        mix: RewardMix,
        names: Mapping[str, str],
        unet_counts: tuple[int, int, int],
    ) -> UpdateTotals:
        """Combine the results of all processes.

        Args:
            processes: The processes of the run.
            result: The update's result in this process.
            mix: The trained rewards.
            names: Registered name by the reward's name in the mix, which may be a file.
            unet_counts: Counts of the UNet's work in this process, from `Denoiser.take_counts`.
        """
        numbers = _numbers(result, mix, unet_counts) | {
            "peak_mib": (max, _peak_mib(processes.device)),
            "interrupted": (max, processes.interrupted),
        }
        columns = zip(*processes.gather([value for _, value in numbers.values()]), strict=True)
        totals = {
            key: combine(column) for (key, (combine, _)), column in zip(numbers.items(), columns, strict=True)
        }
        skipped = totals["first_skipped"]
        return cls(
            _WorkCounts(*(int(totals[key]) for key in _COUNTS)),
            _log_row(result, names, totals),
            {name: _RewardTotals.of(name, totals) for name in names},
            result.grad_norm,
            bool(totals["interrupted"]),
            int(skipped) if math.isfinite(skipped) else None,
            int(totals["first"]),
        )

    @property
    def summary(self) -> str:
        """The rewards in one short line."""
        shown = ((name.removeprefix("reward/"), mean) for name, mean in self.row.items())
        return ", ".join(
            f"{name} {mean:.4g}"
            for name, mean in shown
            if mean is not None and (name == TRAINED or f"reward/{name}" in self.row)
        )


_COUNTS = [field.name for field in fields(_WorkCounts)]


def _numbers(result: StepResult, mix: RewardMix, unet_counts: tuple[int, int, int]) -> _Numbers:
    """Return one process's numbers of an update."""
    scores, samples, finite = result.scores, len(result.samples), result.scores.finite
    counts = (samples, len(result.skipped), samples * result.evaluations, *unet_counts)
    sums: dict[str, float] = dict(zip(_COUNTS, counts, strict=True))
    sums |= {"kept": int(finite.sum()), "drift": result.drift * samples, TRAINED: _sum(scores.total[finite])}
    sums |= {name: value * samples for name, value in result.extra.items()}
    lowest: dict[str, float] = {
        "first": result.samples[0].number,
        "first_skipped": min((sample.number for sample in result.skipped), default=math.inf),
    }
    highest: dict[str, float] = {}
    for name, given in scores.scores.items():
        values, pulls = mix.terms[name].value(given)[finite], scores.gradient_norms.get(name)
        sums[f"reward/{name}"] = _sum(given[finite])
        sums[f"bad_scores/{name}"] = int((~given.isfinite()).sum())
        for kind, row in (("score", given[finite]), ("value", values)):
            lowest[f"lowest_{kind}/{name}"] = min(row.tolist(), default=math.inf)
            highest[f"highest_{kind}/{name}"] = max(row.tolist(), default=-math.inf)
        if pulls is not None:
            sums[f"pull/{name}"] = _sum(pulls[finite])
            sums[f"bad_gradients/{name}"] = int((~pulls.isfinite()).sum())
            highest[f"highest_pull/{name}"] = max(pulls[finite].tolist(), default=-math.inf)
    groups: tuple[tuple[Callable[[Iterable[float]], float], dict[str, float]], ...] = (
        (math.fsum, sums),
        (min, lowest),
        (max, highest),
    )
    return {key: (combine, value) for combine, group in groups for key, value in group.items()}


def _log_row(
    result: StepResult, names: Mapping[str, str], totals: Mapping[str, float]
) -> dict[str, float | None]:
    def mean(key: str) -> float | None:
        return totals[key] / totals["kept"] if totals["kept"] else None

    row: dict[str, float | None] = {
        "peak_mib": round(totals["peak_mib"], 1),
        TRAINED: mean(TRAINED),
        "grad_norm": result.grad_norm if math.isfinite(result.grad_norm) else None,
        "drift": totals["drift"] / totals["samples"],
    }
    for name, registered in names.items():
        for kind in ("reward", "pull"):
            if f"{kind}/{name}" in totals:
                row[f"{kind}/{registered}"] = mean(f"{kind}/{name}")
    for name in result.extra:
        value = totals[name] / totals["samples"]
        row[name] = value if math.isfinite(value) else None
    return row


@dataclass(frozen=True)
class _Streak:
    """Consecutive samples without a learning signal from one reward."""

    samples: int = 0
    scores: tuple[float, float] = (math.inf, -math.inf)
    """Lowest and highest of their scores."""
    values: tuple[float, float] = (math.inf, -math.inf)
    """Lowest and highest of their values of the mix's term."""

    def continued(self, totals: UpdateTotals, name: str) -> _Streak:
        """Return the streak after another update; an empty one if that had a signal."""
        longer, new = self._with(totals, name), _Streak()._with(totals, name)
        pull = totals.rewards[name].pull
        if pull is not None:
            return longer if pull == 0 else _Streak()
        # without gradients a reward gives a signal by differences: between updates too, as prompts come again
        return next((streak for streak in (longer, new) if streak.values[0] == streak.values[1]), _Streak())

    def _with(self, totals: UpdateTotals, name: str) -> _Streak:
        reward = totals.rewards[name]
        return _Streak(
            self.samples + totals.counts.samples - totals.counts.skipped,
            (min(self.scores[0], reward.scores[0]), max(self.scores[1], reward.scores[1])),
            (min(self.values[0], reward.values[0]), max(self.values[1], reward.values[1])),
        )


@dataclass
class LearningWatch:
    """Reports samples and rewards that give no learning signal, and ends a run that cannot learn.

    It sees the same totals in every process, so that all of them end together.
    """

    terms: Mapping[str, MixTerm]
    """Terms of the mix; empty if the method does not train on its rewards."""
    names: Mapping[str, str]
    """Registered name by the reward's name in the mix."""
    order: SampleOrder
    folder: Path
    progress: Progress
    learned: bool = False
    """Whether an update had a gradient."""
    _skipped: int = 0
    _still: int = 0
    """Samples in a row for which the gradient of what is trained was 0."""
    _flat: dict[str, _Streak] = field(default_factory=dict)
    _noted: dict[str, int] = field(default_factory=dict)
    """Length of a reward's streak at the last note about it."""

    def check(self, totals: UpdateTotals, skipped: int, *, last: bool) -> None:
        """Check one update.

        Args:
            totals: The update.
            skipped: Samples that the run skipped so far.
            last: Whether it is the run's last update.

        Raises:
            TcbenchError: If 20 samples in a row were skipped.
            ConfigError: If the gradients of all rewards were 0 for as many samples since the run began.
                Methods without such gradients continue: a sparse reward may be equal for longer.
        """
        self._check_finite(totals, skipped)
        if totals.counts.skipped == totals.counts.samples:
            return
        for name in self.terms:
            self._flat[name] = self._flat.get(name, _Streak()).continued(totals, name)
        still = totals.grad_norm == 0
        self._still = self._still + totals.counts.samples if still else 0
        self.learned |= not still
        self._report_still(totals, last)

    def _check_finite(self, totals: UpdateTotals, skipped: int) -> None:
        counts = totals.counts
        self._skipped = self._skipped + counts.skipped if counts.skipped == counts.samples else 0
        if totals.first_skipped is None:
            return
        text, bad = self.order[totals.first_skipped].text, self._not_finite(totals)
        what = f"not finite: {', '.join(bad) or 'the image or its gradient'}"
        self.progress.note(f"skipped {text!r}; {what} ({skipped} so far)")
        if self._skipped < _LIMIT:
            return
        fix = (
            "use other prompts, or fix or leave out the reward"
            if bad
            else "lower optimiser.lr or set memory.precision = float32"
        )
        checkpoints = any((self.folder / "checkpoints").glob("[0-9]*"))
        kept = f"; {self.folder} has the last checkpoint" if checkpoints else ""
        raise TcbenchError(
            f"the last {self._skipped} samples were skipped, such as {text!r}; {what}; {fix}{kept}"
        )

    def _not_finite(self, totals: UpdateTotals) -> list[str]:
        """Return the scores and gradients that are not finite, by reward."""
        parts = []
        for name, reward in totals.rewards.items():
            if reward.bad_scores:
                parts.append(f"the score of {self.names[name]}")
            elif reward.bad_gradients:
                parts.append(f"the gradient of {self.names[name]}")
        return parts

    def _report_still(self, totals: UpdateTotals, last: bool) -> None:
        """Note rewards without a learning signal; raise if all have a gradient and it always was 0."""
        seen = totals.first + totals.counts.samples

        def long(samples: int) -> bool:
            return samples >= _LIMIT or (last and samples >= seen > 1)

        flat = {name: self._flat[name] for name in self.terms if long(self._flat[name].samples)}
        causes = {name: self._cause(name, streak) for name, streak in flat.items()}
        counts = {name: streak.samples for name, streak in flat.items()}
        text = self.order[totals.first].text
        by_gradient = all(totals.rewards[name].pull is not None for name in self.terms)
        if (
            causes
            and len(causes) == len(self.terms)
            and long(self._still)
            and not self.learned
            and by_gradient
        ):
            raise ConfigError(
                f"the gradient was 0 for all {self._still} samples so far, such as {text!r}: "
                f"{'; '.join(causes.values())}; raise the cap if scores exceed it, or use other rewards"
            )
        if self._still >= _LIMIT and not causes:
            causes[""] = "the rewards vary, but the gradient of what is trained is 0"
            counts[""] = self._still
        for name, cause in causes.items():
            if counts[name] >= 2 * self._noted.get(name, 0):  # again when twice as many
                self.progress.note(
                    f"no learning signal in the last {counts[name]} samples, such as {text!r}: {cause}"
                )
                self._noted[name] = counts[name]

    def _cause(self, name: str, streak: _Streak) -> str:
        (low, high), cap, shown = streak.scores, self.terms[name].cap, self.names[name]
        if low >= cap:
            return f"{shown} is above its cap {cap:g} ({low:.4g} to {high:.4g})"
        if low == high:
            return f"{shown} gives every image the score {low:.4g}"
        return f"the gradient of {shown} is 0 (scores {low:.4g} to {high:.4g})"


def _sum(values: Tensor) -> float:
    return float(values.cpu().double().sum())


def _peak_mib(device: str) -> float:
    """Return the peak memory so far in MiB: of a CUDA device, otherwise of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
