"""Standardised gains over the baseline, which can be averaged over rewards.

The gain on a prompt is the paired difference to the baseline, divided by the standard deviation of the
baseline's per-prompt scores, with its sign turned where lower scores are better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from leaderboards import stats
from leaderboards.board import GROUPS, Column, Entry, Group
from leaderboards.scores import Table
from leaderboards.stats import Values
from leaderboards.verdicts import exposure

GAIN_GROUPS: tuple[Group, ...] = tuple(group for group in GROUPS if group != "same-family")
"""Groups of rewards that a mean gain is computed for."""

INDEPENDENT: tuple[Group, ...] = ("human", "judge", "held-out")
"""Groups of rewards that are unrelated to the training rewards of every system."""

RANKING: tuple[Group, ...] = ("judge", "held-out")
"""Groups that decide ranks, the first one first. Never training rewards, which were optimised."""

_Series = tuple[NDArray[np.int64], Values]
"""Prompts, ascending, and one value for each; both of shape (N,)."""


class Gains:
    """Mean gains of a section's runs. Without a baseline nothing has a gain."""

    def __init__(
        self, entries: Sequence[Entry], columns: Sequence[Column], scores: Table, baseline: str | None
    ) -> None:
        self.entries = entries
        self.columns = columns
        self.scores = scores
        self.baseline = baseline

    @cached_property
    def counted(self) -> Mapping[tuple[str, Group], Sequence[Column]]:
        """Columns whose gains are averaged, by (entry label, group); empty where the entry has no mean gain.

        Training rewards are each entry's own. The other groups have the same columns for all entries, because
        means over different rewards are not comparable: those that the baseline has, and every other entry
        that declares its training rewards and has any column of the group. An entry that lacks one of them
        has no mean gain.
        """
        result: dict[tuple[str, Group], Sequence[Column]] = {}
        # A baseline that does not vary gives no unit to measure gains in.
        usable = [column for column in self.columns if self._unit(column) > 0]
        for group in GAIN_GROUPS:
            members = [column for column in usable if column.group == group]
            declared = [entry.label for entry in self.entries if entry.is_declared]
            present = [{c.label for c in members if (label, c.label) in self.scores} for label in declared]
            shared = [c for c in members if all(c.label in labels for labels in present if labels)]
            for entry in self.entries:
                trained_on = [c for c in usable if exposure(entry, c, self.columns) == "trained-on"]
                chosen = trained_on if group == "trained-on" else shared
                complete = all((entry.label, column.label) in self.scores for column in chosen)
                result[entry.label, group] = chosen if complete else []
        return result

    @cached_property
    def series(self) -> Mapping[tuple[str, Group], _Series]:
        """Mean gain on each prompt, by (entry label, group), of all entries but the baseline."""
        result: dict[tuple[str, Group], _Series] = {}
        for (label, group), chosen in self.counted.items():
            if chosen and label != self.baseline:
                mean = _average([self._gain(label, column) for column in chosen])
                if len(mean[0]):
                    result[label, group] = mean
        return result

    @cached_property
    def prompts(self) -> Mapping[str, tuple[int, int]]:
        """By entry label, (prompts with all scores that decide ranks, prompts that should have them).

        The second number counts the prompts that any entry with such scores planned, so that a reward that
        failed on the same prompts for all entries does not count as complete. Entries that do not declare
        their training rewards are not ranked, so they do not add prompts.
        """
        by_entry: dict[str, set[int]] = {}
        for entry in self.entries:
            scored = [
                set(self.scores[entry.label, column.label].by_prompt[0].tolist())
                for group in RANKING
                for column in self.counted[entry.label, group]
            ]
            by_entry[entry.label] = set.intersection(*scored) if scored else set()
        union = {
            prompt
            for entry in self.entries
            if entry.is_declared and by_entry[entry.label]
            for prompt in entry.run.header.planned.prompt_ids
        }
        return {label: (len(prompts & union), len(union)) for label, prompts in by_entry.items()}

    def scored(self, entry: Entry) -> dict[str, int]:
        """Number of planned images with a score, for each column that the entry has scores of."""
        return {
            column: int(scores.has_score.sum())
            for (label, column), scores in self.scores.items()
            if label == entry.label
        }

    def is_complete(self, entry: Entry) -> bool:
        """Whether every planned image has a score by each reward that scored the run."""
        return set(self.scored(entry).values()) == {entry.run.header.planned.count}

    def missing_groups(self, entry: Entry) -> list[Group]:
        """Groups that decide ranks and that other entries have a mean gain in, but not this one."""
        return [
            group
            for group in RANKING
            if not self.counted[entry.label, group]
            and any(self.counted[other.label, group] for other in self.entries)
        ]

    def lacks_scores(self, entry: Entry) -> bool:
        """Whether the entry lacks an image, a score, or prompts or rewards by which others are ranked."""
        present, expected = self.prompts[entry.label]
        return not self.is_complete(entry) or present < expected or bool(self.missing_groups(entry))

    def gap(self, entry: Entry) -> float | None:
        """Over-optimisation gap of an entry.

        The mean gain on the rewards that it was trained on minus the mean gain on the rewards of all
        `INDEPENDENT` groups together, in standard deviations of the baseline's scores. None if a training
        reward of the entry is unknown, or if it lacks the mean gain on its training rewards or on a group
        that is available for other entries.
        """
        label = entry.label
        groups = [g for g in INDEPENDENT if any(self.counted[other.label, g] for other in self.entries)]
        trained = self.series.get((label, "trained-on"))
        if not entry.is_declared or trained is None or not groups:
            return None
        if not all((label, group) in self.series for group in groups):
            return None
        independent = [column for group in groups for column in self.counted[label, group]]
        others = _average([self._gain(label, column) for column in independent])[1]
        return float(trained[1].mean() - others.mean()) if len(others) else None

    def seed_average(self, labels: Sequence[str], group: Group) -> Values:
        """Mean gain on each prompt, averaged over training seeds, shape (N,)."""
        return _average([self.series[label, group] for label in labels])[1]

    def seed_average_difference(self, labels: Sequence[str], column: str) -> Values:
        """Difference to the baseline in the reward's own units, averaged over training seeds, shape (N,)."""
        reference = self.scores[self.baseline or "", column]
        return _average([self.scores[label, column].minus(reference) for label in labels])[1]

    def _unit(self, column: Column) -> float:
        """Standard deviation of the baseline's per-prompt scores; 0 if it has none."""
        reference = self.scores.get((self.baseline or "", column.label))
        return stats.spread(reference.by_prompt[1]) if reference else 0.0

    def _gain(self, label: str, column: Column) -> _Series:
        reference = self.scores[self.baseline or "", column.label]
        prompts, differences = self.scores[label, column.label].minus(reference)
        sign = 1 if column.score_set.higher_is_better else -1
        return prompts, sign * differences / self._unit(column)


def _average(parts: Sequence[_Series]) -> _Series:
    """Average over rewards or training seeds, on the prompts that all of them have."""
    prompts = reduce(np.intersect1d, [part[0] for part in parts])
    rows = [values[np.searchsorted(members, prompts)] for members, values in parts]
    return prompts, np.mean(rows, axis=0)
