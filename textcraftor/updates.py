"""Updates over all processes: what the log shows, and whether a run still learns."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping
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

LIMIT = 20
"""Samples in a row without a finite reward, or without anything to learn, after which a run ends."""


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
    """Those of them that had a backward pass."""
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
    def of(cls, name: str, total: Mapping[str, float], high: Mapping[str, float]) -> _RewardTotals:
        return cls(
            int(total[f"bad_scores/{name}"]),
            int(total.get(f"bad_gradients/{name}", 0)),
            high.get(f"pull/{name}"),
            (-high[f"-score/{name}"], high[f"score/{name}"]),
            (-high[f"-value/{name}"], high[f"value/{name}"]),
        )


@dataclass(frozen=True)
class UpdateTotals:
    """One update over all processes."""

    counts: _WorkCounts
    row: Mapping[str, float | None]
    """Means over all samples that were not skipped, for the log; None for a mean over no sample."""
    rewards: Mapping[str, _RewardTotals]
    """By the reward's name in the mix."""
    grad_norm: float
    peak_mib: float
    """Peak memory so far in MiB, of the process that needs most."""
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
        sums, highs = _numbers(result, mix, unet_counts)
        highs |= {"peak": _peak_mib(processes.device), "interrupted": processes.interrupted}
        columns = list(zip(*processes.gather([*sums.values(), *highs.values()]), strict=True))
        total = dict(zip(sums, map(math.fsum, columns[: len(sums)]), strict=True))
        high = dict(zip(highs, map(max, columns[len(sums) :]), strict=True))
        skipped = high["-first_skipped"]
        return cls(
            _WorkCounts(*(int(total[key]) for key in _COUNTS)),
            _log_row(result, names, total),
            {name: _RewardTotals.of(name, total, high) for name in names},
            result.grad_norm,
            high["peak"],
            bool(high["interrupted"]),
            int(-skipped) if math.isfinite(skipped) else None,
            int(-high["-first"]),
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


def _numbers(
    result: StepResult, mix: RewardMix, unet_counts: tuple[int, int, int]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return one process's numbers of an update: those to add up, and those to take the highest of."""
    scores, samples, finite = result.scores, len(result.samples), result.scores.finite
    counts = (samples, len(result.skipped), samples * result.evaluations, *unet_counts)
    sums: dict[str, float] = dict(zip(_COUNTS, counts, strict=True))
    sums |= {"kept": int(finite.sum()), "drift": result.drift * samples, TRAINED: _sum(scores.total[finite])}
    sums |= {name: value * samples for name, value in result.extra.items()}
    # with a minus, because the lowest is wanted
    highs = {
        "-first": -float(result.samples[0].number),
        "-first_skipped": max((-float(sample.number) for sample in result.skipped), default=-math.inf),
    }
    for name, given in scores.scores.items():
        values, pulls = mix.terms[name].value(given)[finite], scores.gradient_norms.get(name)
        sums[f"reward/{name}"] = _sum(given[finite])
        sums[f"bad_scores/{name}"] = int((~given.isfinite()).sum())
        highs |= {f"score/{name}": _max(given[finite]), f"-score/{name}": _max(-given[finite])}
        highs |= {f"value/{name}": _max(values), f"-value/{name}": _max(-values)}
        if pulls is not None:
            sums[f"pull/{name}"] = _sum(pulls[finite])
            sums[f"bad_gradients/{name}"] = int((~pulls.isfinite()).sum())
            highs[f"pull/{name}"] = _max(pulls[finite])
    return sums, highs


def _log_row(
    result: StepResult, names: Mapping[str, str], total: Mapping[str, float]
) -> dict[str, float | None]:
    def mean(key: str) -> float | None:
        return total[key] / total["kept"] if total["kept"] else None

    row: dict[str, float | None] = {
        TRAINED: mean(TRAINED),
        "grad_norm": result.grad_norm if math.isfinite(result.grad_norm) else None,
        "drift": total["drift"] / total["samples"],
    }
    for name, registered in names.items():
        for kind in ("reward", "pull"):
            if f"{kind}/{name}" in total:
                row[f"{kind}/{registered}"] = mean(f"{kind}/{name}")
    return row | {name: total[name] / total["samples"] for name in result.extra}


@dataclass
class _Streak:
    """Samples in a row from which a reward gave nothing to learn."""

    samples: int = 0
    low: float = math.inf
    high: float = -math.inf


@dataclass
class LearningWatch:
    """Reports samples and rewards that teach nothing, and ends a run that no longer learns.

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
    _still: _Streak = field(default_factory=_Streak)
    _flat: dict[str, _Streak] = field(default_factory=dict)
    _noted: set[str] = field(default_factory=set)

    def check(self, totals: UpdateTotals, skipped: int, *, last: bool) -> None:
        """Check one update.

        Args:
            totals: The update.
            skipped: Samples that the run skipped so far.
            last: Whether it is the run's last update.

        Raises:
            TcbenchError: If `LIMIT` samples in a row were skipped.
            ConfigError: If there was nothing to learn from as many samples since the run began.
        """
        self._check_finite(totals, skipped)
        if totals.counts.skipped == totals.counts.samples:
            return
        for name in self.terms:
            self._flat[name] = _continued(self._flat.get(name, _Streak()), totals, name)
        still = totals.grad_norm == 0
        self._still = _Streak(self._still.samples + totals.counts.samples if still else 0)
        self.learned |= not still
        self._report_still(totals, last)

    def _check_finite(self, totals: UpdateTotals, skipped: int) -> None:
        counts = totals.counts
        self._skipped = self._skipped + counts.skipped if counts.skipped == counts.samples else 0
        if totals.first_skipped is None:
            return
        text, bad = self.order[totals.first_skipped].text, self._not_finite(totals)
        what = " and ".join(bad) or "the image or its gradient"
        self.progress.note(f"skipped {text!r}: {what} is not finite ({skipped} so far)")
        if self._skipped < LIMIT:
            return
        fix = (
            "use other prompts, or fix or leave out the reward"
            if bad
            else "lower optimiser.lr or set memory.precision = float32"
        )
        checkpoints = any((self.folder / "checkpoints").glob("[0-9]*"))
        kept = f"; {self.folder} has the last checkpoint" if checkpoints else ""
        raise TcbenchError(
            f"the last {self._skipped} samples were skipped, because {what} is not finite, such as {text!r}; "
            f"{fix}{kept}"
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
        """Note rewards that give nothing to learn; raise if that holds for all and always has."""
        seen = totals.first + totals.counts.samples

        def long(streak: _Streak) -> bool:
            return streak.samples >= LIMIT or (last and streak.samples >= seen > 1)

        causes = {n: self._cause(n, totals.rewards[n]) for n in self.terms if long(self._flat[n])}
        text = self.order[totals.first].text
        if causes and len(causes) == len(self.terms) and long(self._still) and not self.learned:
            raise ConfigError(
                f"the gradient was 0 for all {self._still.samples} samples so far, such as {text!r}: "
                f"{'; '.join(causes.values())}; raise a cap that is passed, or use other rewards"
            )
        if self._still.samples >= LIMIT and not causes:
            causes[""] = "the rewards vary, but the gradient of what is trained is 0"
        for name in causes.keys() - self._noted:
            count = self._flat[name].samples if name else self._still.samples
            self.progress.note(
                f"nothing to learn from the last {count} samples, such as {text!r}: {causes[name]}"
            )
            self._noted.add(name)

    def _cause(self, name: str, reward: _RewardTotals) -> str:
        (low, high), cap, shown = reward.scores, self.terms[name].cap, self.names[name]
        if low >= cap:
            return f"{shown} is above its cap {cap:g} ({low:.4g} to {high:.4g})"
        if low == high:
            return f"{shown} gives every image the score {low:.4g}"
        return f"the gradient of {shown} is 0 (scores {low:.4g} to {high:.4g})"


def _continued(streak: _Streak, totals: UpdateTotals, name: str) -> _Streak:
    """Return a reward's streak after another update."""
    reward, kept = totals.rewards[name], totals.counts.samples - totals.counts.skipped
    if reward.pull is not None:
        return _Streak(streak.samples + kept) if reward.pull == 0 else _Streak()
    # without gradients a reward teaches by differences: between updates too, as prompts come again
    low, high = min(streak.low, reward.values[0]), max(streak.high, reward.values[1])
    if low == high:
        return _Streak(streak.samples + kept, low, high)
    low, high = reward.values
    return _Streak(kept, low, high) if low == high else _Streak()


def _sum(values: Tensor) -> float:
    return float(values.cpu().double().sum())


def _max(values: Tensor) -> float:
    return float(values.max()) if len(values) else -math.inf


def _peak_mib(device: str) -> float:
    """Return the peak memory so far in MiB: of a CUDA device, otherwise of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
