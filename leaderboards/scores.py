"""A run's scores as arrays, for statistics and boards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaderboards.records import Key, Sample, ScoreSet
from leaderboards.run_state import RunState
from leaderboards.stats import Values, per_prompt

SAMPLES = 1 << 20
"""Upper bound of the samples per prompt: prompt x `SAMPLES` + sample is a unique number."""


@dataclass(frozen=True, eq=False)
class RewardScores:
    """One reward's scores of one run, for the S planned samples that were attempted."""

    score_set: ScoreSet
    keys: NDArray[np.int64]
    """(S,) numbers of prompt x `SAMPLES` + sample, ascending."""
    values: Values
    """(S,) scores; NaN where one is missing."""
    reasons: Mapping[int, str]
    """Why scores are missing, by index."""

    @cached_property
    def has_score(self) -> NDArray[np.bool_]:
        """(S,) whether there is a score."""
        return ~np.isnan(self.values)

    @cached_property
    def by_prompt(self) -> tuple[NDArray[np.int64], Values]:
        """Prompts with a score, ascending, and the mean of each over its samples."""
        return per_prompt(self.keys // SAMPLES, self.values)

    def samples_of(self, prompts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of samples with a score for each of ``prompts``, which come from `by_prompt`."""
        return np.bincount(
            np.searchsorted(prompts, self.keys[self.has_score] // SAMPLES), minlength=len(prompts)
        )

    def minus(self, baseline: RewardScores) -> tuple[NDArray[np.int64], Values]:
        """Return prompts and mean differences over the samples that both systems have a score for.

        Pairing by sample removes the variation between prompts and noises from the comparison.
        """
        if np.array_equal(self.keys, baseline.keys):
            keys, values, base_values = self.keys, self.values, baseline.values
        else:
            keys, rows, base_rows = np.intersect1d(
                self.keys, baseline.keys, assume_unique=True, return_indices=True
            )
            values, base_values = self.values[rows], baseline.values[base_rows]
        return per_prompt(keys // SAMPLES, values - base_values)


Table = Mapping[tuple[str, str], RewardScores]
"""Scores by (row label, column label) of a board."""


Categories = Mapping[str, NDArray[np.int64]]
"""Prompts of each category and each further group."""


@dataclass(frozen=True, eq=False)
class RunScores:
    """All scores of one run, with its planned samples."""

    run: RunState
    samples: Mapping[Key, Sample]
    scored: Sequence[RewardScores]
    """Sorted by reward and score id."""

    @staticmethod
    def read(run: RunState) -> RunScores:
        """Read the scores of a run's planned samples; samples that were not attempted yet are left out."""
        samples = run.samples
        planned = {key: samples[key] for key in sorted(samples) if key in run.header.planned}
        sets = sorted(run.score_sets, key=lambda score_set: (score_set.reward, score_set.score_id))
        return RunScores(run, planned, [_scored(run, score_set, planned) for score_set in sets])

    @staticmethod
    def categories_of(runs: Iterable[RunScores]) -> Categories:
        """The categories, then the further groups, each in the order of their first prompts.

        Either kind is left out if all prompts have the same one.
        """
        kinds: tuple[dict[str, set[int]], dict[str, set[int]]] = {}, {}
        for run in runs:
            for (prompt, _), sample in run.samples.items():
                for kind, names in zip(kinds, ((sample.category,), sample.groups), strict=True):
                    for name in names:
                        kind.setdefault(name, set()).add(prompt)
        kept: dict[str, set[int]] = {}
        for kind in kinds:
            if len(kind) > 1:
                kept |= {name: kind[name] for name in sorted(kind, key=lambda name: (min(kind[name]), name))}
        return {name: np.array(sorted(prompts), dtype=np.int64) for name, prompts in kept.items()}


def _scored(run: RunState, score_set: ScoreSet, samples: Mapping[Key, Sample]) -> RewardScores:
    records = run.score_records(score_set, samples)
    attempted = [key for key, sample in samples.items() if key in records or sample.image is None]
    rows: list[Mapping[str, Any]] = [records.get(key) or {"score": None} for key in attempted]
    values = np.array([row["score"] for row in rows], dtype=np.float64)
    reasons = {
        index: str(rows[index].get("reason") or samples[attempted[index]].reason or "no reason recorded")
        for index in np.flatnonzero(np.isnan(values)).tolist()
    }
    keys = np.array([prompt * SAMPLES + sample for prompt, sample in attempted], dtype=np.int64)
    return RewardScores(score_set, keys, values, reasons)
