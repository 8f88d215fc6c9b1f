"""A run's scores as arrays: what statistics and tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leaderboards.records import Key, Sample, ScoreSet
from leaderboards.run_state import RunState
from leaderboards.stats import Values, per_prompt

if TYPE_CHECKING:
    import pandas as pd

SAMPLES = 1 << 20
"""More than any prompt has samples, to number (prompt, sample) by one integer."""


@dataclass(frozen=True, eq=False)
class RewardScores:
    """What one reward says of the planned images of one run: S samples that were tried, in order."""

    score_set: ScoreSet
    keys: NDArray[np.int64]
    """(S,) numbers of prompt x `SAMPLES` + sample, ascending."""
    values: Values
    """(S,) scores; NaN where there is none."""
    reasons: Mapping[int, str]
    """Why there is none, by place."""

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """(S,) whether there is a score."""
        return ~np.isnan(self.values)

    @cached_property
    def by_prompt(self) -> tuple[NDArray[np.int64], Values]:
        """The prompts that have a score, ascending, and each one's mean over its samples."""
        return per_prompt(self.keys // SAMPLES, self.values)

    def samples_of(self, prompts: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many samples of each of the `prompts`, which are those of `by_prompt`, have a score."""
        return np.bincount(np.searchsorted(prompts, self.keys[self.known] // SAMPLES), minlength=len(prompts))


Table = Mapping[tuple[str, str], RewardScores]
"""Scores by (row label, column label) of a board."""


def paired(system: RewardScores, baseline: RewardScores) -> tuple[NDArray[np.int64], Values]:
    """Prompts and mean differences over the samples that both have a score for."""
    if np.array_equal(system.keys, baseline.keys):
        keys, ours, theirs = system.keys, system.values, baseline.values
    else:
        keys, mine, yours = np.intersect1d(
            system.keys, baseline.keys, assume_unique=True, return_indices=True
        )
        ours, theirs = system.values[mine], baseline.values[yours]
    return per_prompt(keys // SAMPLES, ours - theirs)


@dataclass(frozen=True, eq=False)
class RunScores:
    """All scores of one run, and what its planned samples are."""

    run: RunState
    samples: Mapping[Key, Sample]
    scored: Sequence[RewardScores]
    """By reward and score id."""


def read_scores(run: RunState) -> RunScores:
    """Everything on record of the run's plan; a planned sample that was not tried yet has no place."""
    samples = run.samples
    planned = {key: samples[key] for key in sorted(samples) if key in run.header.planned}
    sets = sorted(run.score_sets, key=lambda found: (found.reward, found.score_id))
    return RunScores(run, planned, [_scored(run, score_set, planned) for score_set in sets])


def _scored(run: RunState, score_set: ScoreSet, samples: Mapping[Key, Sample]) -> RewardScores:
    records = run.score_records(score_set, samples)
    tried = [key for key, sample in samples.items() if key in records or sample.image is None]
    found: list[Mapping[str, Any]] = [records.get(key) or {"score": None} for key in tried]
    values = np.array([record["score"] for record in found], dtype=np.float64)
    reasons = {
        place: str(found[place].get("reason") or samples[tried[place]].reason or "no reason on record")
        for place in np.flatnonzero(np.isnan(values)).tolist()
    }
    keys = np.array([prompt * SAMPLES + sample for prompt, sample in tried], dtype=np.int64)
    return RewardScores(score_set, keys, values, reasons)


FRAME_COLUMNS = (
    "run", "suite", "suite_sha256", "system", "generation_id",
    "reward", "score_id", "higher_is_better", "role",
    "prompt_id", "category", "groups", "sample", "score", "reason",
)  # fmt: skip


def frame(runs: Iterable[RunState]) -> pd.DataFrame:
    """All scores of runs for pandas, one row per (run, reward, prompt, sample), columns `FRAME_COLUMNS`.

    `score` is NaN and `reason` says why where a sample could not be made, judged or scored; a planned sample
    that was not tried yet has no row.
    """
    import pandas as pd

    rows = [row for run in runs for row in _rows(read_scores(run))]
    return pd.DataFrame(rows, columns=list(FRAME_COLUMNS)).astype({"score": "float64"})


def _rows(found: RunScores) -> Iterator[tuple[Any, ...]]:
    header = found.run.header
    head = (found.run.path.name, header.suite, header.suite_sha256, header.system, header.generation_id)
    for scored in found.scored:
        own = scored.score_set
        reward = (own.reward, own.score_id, own.higher_is_better, own.role)
        for place, (number, value) in enumerate(
            zip(scored.keys.tolist(), scored.values.tolist(), strict=True)
        ):
            key = divmod(number, SAMPLES)
            sample = found.samples[key]
            groups = tuple(sample.groups)
            yield (*head, *reward, key[0], sample.category, groups, key[1], value, scored.reasons.get(place))
