"""The HPSv2 benchmark's own statistics, for comparison with published tables.

For each style the 800 prompts, in benchmark order, are cut into 10 groups of 80. The benchmark reports the
mean of the groups' means and their standard deviation with ddof 0 (Wu et al. 2023; function
`evaluate_benchmark` in evaluation.py of the package hpsv2 1.2.0). That deviation describes how difficulty
varies along the benchmark's files. It is not a confidence interval and is not used as one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leaderboards.board import Column, Entry
from leaderboards.scores import Categories, Table
from leaderboards.stats import Values

SUITE, REWARD = "hpsv2", "hpsv2"
"""Name of the suite, and prefix of the rewards' names."""

GROUP = 80
STYLE = 800


def official_results(
    entries: Sequence[Entry], columns: Sequence[Column], scores: Table, styles: Categories
) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """Compute the benchmark's (mean, standard deviation) of each style.

    Returns:
        Results by (entry label, column label), for every run on the suite with one score for each prompt of
        every style and every version of HPSv2. The package prints 100 times these numbers.
    """
    results: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for entry in entries:
        header = entry.run.header
        for column in columns:
            scored = scores.get((entry.label, column.label))
            if header.suite != SUITE or not column.score_set.reward.startswith(REWARD) or scored is None:
                continue
            prompts, values = scored.by_prompt
            by_style = {name: values[np.isin(prompts, members)] for name, members in styles.items()}
            complete = all(len(part) == STYLE for part in by_style.values())
            if by_style and complete and header.planned.seeds == 1:
                results[entry.label, column.label] = {
                    name: _group_statistics(part) for name, part in by_style.items()
                }
    return results


def _group_statistics(values: Values) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) of the means of consecutive groups of `GROUP` values (N,)."""
    means = values.reshape(-1, GROUP).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=0))
