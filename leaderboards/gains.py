"""Standardised gains over the baseline, which can be averaged over rewards.

The gain on a prompt is the paired difference to the baseline, divided by the standard deviation of the
baseline's per-prompt scores, with its sign turned where lower scores are better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from leaderboards import stats
from leaderboards.board import Column, Entry, Group
from leaderboards.scores import Table, paired
from leaderboards.stats import Values
from leaderboards.verdicts import exposure

GAIN_GROUPS: tuple[Group, ...] = ("trained-on", "held-out", "judge", "human")
"""Groups of rewards that a mean gain is computed for."""

Counted = Mapping[tuple[str, Group], Sequence[Column]]
"""Columns whose gains are averaged, by (entry label, group); empty where the entry has no mean gain."""


@dataclass(frozen=True, eq=False)
class Series:
    """One value for each prompt, both of shape (N,), prompts ascending."""

    prompts: NDArray[np.int64]
    values: Values


def average(parts: Sequence[Series]) -> Series:
    """Average over rewards or training seeds, on the prompts that all of them have."""
    prompts = reduce(np.intersect1d, [part.prompts for part in parts])
    rows = [part.values[np.searchsorted(part.prompts, prompts)] for part in parts]
    return Series(prompts, np.mean(rows, axis=0))


def counted_columns(
    entries: Sequence[Entry], columns: Sequence[Column], scores: Table, baseline: str
) -> Counted:
    """Choose the columns whose gains are averaged.

    Training rewards are each entry's own. The other groups have the same columns for all entries, because
    means over different rewards are not comparable: those that the baseline has, and every other entry that
    declares its training rewards and has any column of the group. An entry that lacks one of them has no
    gain.
    """
    result: dict[tuple[str, Group], list[Column]] = {}
    usable = [
        column
        for column in columns
        if (reference := scores.get((baseline, column.label)))
        and stats.spread(reference.by_prompt[1]) > 0  # else there is no unit to measure gains in
    ]
    for group in GAIN_GROUPS:
        members = [column for column in usable if column.group == group]
        declared = [entry.label for entry in entries if entry.trained_on is not None]
        present = [{c.label for c in members if (label, c.label) in scores} for label in declared]
        shared = [c for c in members if all(c.label in labels for labels in present if labels)]
        for entry in entries:
            own = [c for c in usable if exposure(entry, c, columns) == "trained-on"]
            chosen = own if group == "trained-on" else shared
            whole = all((entry.label, column.label) in scores for column in chosen)
            result[entry.label, group] = chosen if whole else []
    return result


def gain_series(
    entries: Sequence[Entry], counted: Counted, scores: Table, baseline: str
) -> dict[tuple[str, Group], Series]:
    """Mean gain on each prompt, by (entry label, group), of all entries but the baseline."""
    series: dict[tuple[str, Group], Series] = {}
    for entry in entries:
        for group in GAIN_GROUPS:
            chosen = counted[entry.label, group]
            if chosen and entry.label != baseline:
                mean = average([_gain(entry, column, scores, baseline) for column in chosen])
                if len(mean.prompts):
                    series[entry.label, group] = mean
    return series


def _gain(entry: Entry, column: Column, scores: Table, baseline: str) -> Series:
    reference = scores[baseline, column.label]
    prompts, differences = paired(scores[entry.label, column.label], reference)
    sign = 1 if column.score_set.higher_is_better else -1
    return Series(prompts, sign * differences / stats.spread(reference.by_prompt[1]))
