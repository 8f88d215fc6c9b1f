"""The HPSv2 benchmark's own arithmetic, to compare with published tables.

Per style the 800 prompts in benchmark order are cut into 10 groups of 80; the mean over the groups' means is
printed with their deviation, ddof 0 (Wu et al. 2023, the function `evaluate_benchmark` of the package hpsv2
1.2.0, file evaluation.py). That deviation is about the spread of difficulty along the benchmark's files: it
is no interval of anything, and nothing here uses it as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from leaderboards.board import Column, Entry, OfficialHps
from leaderboards.cells import Groups
from leaderboards.scores import Table
from leaderboards.stats import Values

SUITE, REWARD = "hpsv2", "hpsv2"
"""Of the suite, and how the names of the rewards begin."""

GROUP = 80
STYLE = 800


def group_statistics(values: Values) -> tuple[float, float]:
    """Mean and deviation (ddof 0) of the means of consecutive groups of `GROUP` values (N,).

    Raises ValueError for values that do not fill groups.
    """
    if not len(values) or len(values) % GROUP:
        raise ValueError(f"{len(values)} scores; expected a multiple of {GROUP}")
    means = values.reshape(-1, GROUP).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=0))


def official(
    entries: Sequence[Entry], columns: Sequence[Column], scores: Table, styles: Groups
) -> Iterator[OfficialHps]:
    """Of every row with one score for each prompt of every style, by every version of HPSv2.

    The package prints a hundred times these numbers.
    """
    for entry in entries:
        header = entry.run.header
        for column in columns:
            scored = scores.get((entry.label, column.label))
            if header.suite != SUITE or not column.score_set.reward.startswith(REWARD) or scored is None:
                continue
            prompts, values = scored.by_prompt
            by_style = {name: values[np.isin(prompts, members)] for name, members in styles.items()}
            if (
                by_style
                and header.planned.seeds == 1
                and all(len(part) == STYLE for part in by_style.values())
            ):
                found = {name: group_statistics(part) for name, part in by_style.items()}
                yield OfficialHps(entry.label, column.label, found)
