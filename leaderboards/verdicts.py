"""Conclusions from cells: exposure to rewards in training, claims, mean ranks, over-optimisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from leaderboards.board import Cell, CellKey, Claim, Column, Entry, Exposure, Group
from leaderboards.scores import Table
from leaderboards.stats import CLAIM_PROMPTS, LEVEL, Comparison, Estimate, holm, separated_ranks, spread


def exposure(entry: Entry, column: Column, columns: Iterable[Column]) -> Exposure:
    """Whether the system was trained on this reward, or on another reward of the same family."""
    if entry.trained_on is None:
        return "undeclared"
    if column.score_set.reward in entry.trained_on:
        return "trained-on"
    families = {c.score_set.family for c in columns if c.score_set.reward in entry.trained_on}
    # Families of training rewards that are not on the board.
    families |= set(entry.run.header.details.get("trained_on_families", ()))
    return "same-family" if column.score_set.family in families else "held-out"


def group(column: Column, entries: Iterable[Entry], columns: Sequence[Column]) -> Group:
    """Return the group of a column in a whole section.

    A reward is a judge, or held out, only if it is held out for every system that declares its training
    rewards: mean gains over these groups must be comparable between systems. Systems that declare nothing do
    not count, because they cannot be ranked.
    """
    if column.score_set.role == "human":
        return "human"
    exposures = {exposure(entry, column, columns) for entry in entries}
    if "trained-on" in exposures:
        return "trained-on"
    if "same-family" in exposures:
        return "same-family"
    return "judge" if column.score_set.role == "judge" else "held-out"


def claims(
    comparisons: Sequence[Comparison | None], higher_is_better: Sequence[bool]
) -> list[tuple[float, Claim | None]]:
    """Holm's p of each comparison over all of them, and what it claims; (NaN, None) for None."""
    adjusted = holm([compared.p if compared else math.nan for compared in comparisons])
    return [
        (p, _claim(compared.difference, p, higher) if compared else None)
        for compared, p, higher in zip(comparisons, adjusted, higher_is_better, strict=True)
    ]


def _claim(difference: Estimate, p: float, higher_is_better: bool) -> Claim:
    """A claim needs enough prompts, a small adjusted p and an interval that excludes zero."""
    if difference.n < CLAIM_PROMPTS:
        return "too few prompts"
    if p >= 1 - LEVEL or difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.value > 0) == higher_is_better else "worse"


def mean_ranks(
    entries: Sequence[Entry],
    columns: Sequence[Column],
    cells: Mapping[CellKey, Cell],
    scores: Table,
    baseline: str | None,
) -> dict[str, float]:
    """Mean rank of each entry over the columns that are held out for all entries; 1 is best.

    Counted are columns that every entry which declares its training rewards has scores in. In a column an
    entry ranks after those whose interval of the difference to the baseline lies wholly on the better side of
    its own interval, which is stricter than comparing the two directly. No rank for an entry that lacks
    prompts which others have, shares no sample with the baseline, or does not declare its training rewards;
    no ranks at all below `stats.CLAIM_PROMPTS` prompts.
    """
    declared = [entry for entry in entries if entry.trained_on is not None]
    counted = [
        column
        for column in columns
        if all(
            exposure(entry, column, columns) == "held-out" and (entry.label, column.label) in scores
            for entry in declared
        )
    ]
    prompts = {
        (e.label, c.label): set(scores[e.label, c.label].by_prompt[0].tolist())
        for e in declared
        for c in counted
    }
    union = {c.label: set().union(*(prompts[e.label, c.label] for e in declared)) for c in counted}
    ranked = [
        e.label
        for e in declared
        if all(prompts[e.label, c.label] == union[c.label] for c in counted)
        and (e.label == baseline or all(cells[e.label, c.label, None].comparison for c in counted))
    ]
    few = min(map(len, union.values()), default=0) < CLAIM_PROMPTS
    if few or baseline not in ranked or len(ranked) < 2:
        return {}
    by_column = [
        separated_ranks([_gain_interval(cells[label, c.label, None]) for label in ranked]) for c in counted
    ]
    return dict(zip(ranked, map(fmean, zip(*by_column, strict=True)), strict=True))


def _gain_interval(cell: Cell) -> tuple[float, float]:
    """Interval of the difference to the baseline, higher being better; (0, 0) for the baseline itself."""
    if cell.comparison is None:
        return 0.0, 0.0
    difference = cell.comparison.difference
    ends = difference.low, difference.high
    return ends if cell.higher_is_better else (-ends[1], -ends[0])


def gaps(
    entries: Sequence[Entry], cells: Mapping[CellKey, Cell], scores: Table, baseline: str | None
) -> dict[str, float]:
    """Over-optimisation gap of each entry that has gains on training and on held-out rewards."""
    by_entry: dict[str, dict[Exposure, list[float]]] = {entry.label: {} for entry in entries}
    for cell in cells.values():
        if baseline is None or cell.category is not None or cell.comparison is None:
            continue
        deviation = spread(scores[baseline, cell.column].by_prompt[1])
        if deviation > 0:
            gain = cell.comparison.difference.value / deviation * (1 if cell.higher_is_better else -1)
            by_entry[cell.entry].setdefault(cell.exposure, []).append(gain)
    return {
        label: fmean(gains["trained-on"]) - fmean(gains["held-out"])
        for label, gains in by_entry.items()
        if "trained-on" in gains and "held-out" in gains
    }
