"""From scored samples to the cells of a section: means, paired comparisons, claims and ranks.

Comparisons are paired by prompt and sample, so they are between images that were drawn from the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from leaderboards import stats
from leaderboards.board import Cell, CellKey, Claim, Column, Entry, Exposure

Samples = Mapping[tuple[str, str], pd.DataFrame]
"""Tables of (entry label, column label): score, reason, category, groups; indexed by (prompt_id, sample)."""


def categories(samples: Samples) -> tuple[str, ...]:
    """The categories, then the further groups, each in the order of their first prompts.

    None of a kind of which all prompts are alike.
    """
    kinds = [_in_order(samples, column) for column in ("category", "groups")]
    return tuple(name for names in kinds if len(names) > 1 for name in names)


def _in_order(samples: Samples, column: str) -> list[str]:
    first: dict[str, int] = {}
    for table in samples.values():
        prompts = table.reset_index("prompt_id").explode(column).groupby(column)["prompt_id"].min()
        for name, prompt in prompts.items():
            first[str(name)] = min(int(prompt), first.get(str(name), int(prompt)))
    return sorted(first, key=lambda name: (first[name], name))


def cells(
    entries: Sequence[Entry], columns: Sequence[Column], samples: Samples, baseline: str | None
) -> dict[CellKey, Cell]:
    """All cells that have samples, on all prompts and on each category, with claims in the headline ones."""
    groups = (None, *categories(samples))
    found = [
        _cell(entry, column, columns, category, samples, baseline)
        for entry in entries
        for column in columns
        if (entry.label, column.label) in samples
        for category in groups
    ]
    return {cell.key: cell for cell in found} | {cell.key: cell for cell in _claimed(found)}


def exposure(entry: Entry, column: Column, columns: Iterable[Column]) -> Exposure:
    """Whether the system was trained on this reward, or on another one of its family."""
    trained_on = set(entry.run.header.details.get("trained_on", ()))
    if column.score_set.reward in trained_on:
        return "trained-on"
    families = {c.score_set.family for c in columns if c.score_set.reward in trained_on}
    families |= set(entry.run.header.details.get("trained_on_families", ()))  # of rewards not on the board
    return "same-family" if column.score_set.family in families else "held-out"


def ranks(entries: Sequence[Entry], columns: Sequence[Column], samples: Samples) -> list[float] | None:
    """Each row's mean rank over the columns that are held-out for every row, 1 being best.

    None unless every such column has `stats.CLAIM_PROMPTS` prompts that all rows have a score for.
    """
    fair = [c for c in columns if all(exposure(entry, c, columns) == "held-out" for entry in entries)]
    gains = [gain for column in fair if (gain := _common_gains(entries, column, samples))]
    if len(entries) < 2 or not fair or len(gains) < len(fair):
        return None
    return stats.mean_ranks(gains)


def _cell(
    entry: Entry,
    column: Column,
    columns: Sequence[Column],
    category: str | None,
    samples: Samples,
    baseline: str | None,
) -> Cell:
    table = samples[entry.label, column.label]
    chosen = table if category is None else table[_is_of(table, category)]
    reference = samples.get((baseline, column.label)) if baseline and baseline != entry.label else None
    higher_is_better = column.score_set.higher_is_better
    return Cell(
        entry=entry.label,
        column=column.label,
        category=category,
        higher_is_better=higher_is_better,
        exposure=exposure(entry, column, columns),
        mean=stats.mean_interval(stats.per_prompt(_prompts(chosen), chosen["score"])[1]),
        samples=int(chosen["score"].notna().sum()),
        comparison=None if reference is None else _compare(chosen, reference, higher_is_better),
    )


def _is_of(table: pd.DataFrame, category: str) -> list[bool]:
    """Which rows are of a category or of a further group."""
    pairs = zip(table["category"], table["groups"], strict=True)
    return [category == own or category in groups for own, groups in pairs]


def _compare(system: pd.DataFrame, baseline: pd.DataFrame, higher_is_better: bool) -> stats.Comparison | None:
    """Compare over the samples that both have a score for; None without any."""
    pairs = _side_by_side([system, baseline])
    if pairs.empty:
        return None
    ours, theirs = (stats.per_prompt(_prompts(pairs), pairs[side])[1] for side in pairs)
    return stats.compare(ours, theirs, higher_is_better=higher_is_better)


def _claimed(found: Iterable[Cell]) -> Iterator[Cell]:
    """The headline cells that have a comparison, with adjusted p and claim."""
    headline = [(cell, cell.comparison) for cell in found if cell.category is None and cell.comparison]
    adjusted = stats.holm([comparison.p for _, comparison in headline])
    for (cell, comparison), p in zip(headline, adjusted, strict=True):
        yield replace(cell, p_holm=p, claim=_claim(comparison.difference, p, cell.higher_is_better))


def _claim(difference: stats.Estimate, p_holm: float, higher_is_better: bool) -> Claim:
    """A claim needs enough prompts, a small adjusted p and an interval that leaves out zero."""
    if difference.n < stats.CLAIM_PROMPTS:
        return "too few prompts"
    if p_holm >= 1 - stats.LEVEL or difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.value > 0) == higher_is_better else "worse"


def _common_gains(entries: Sequence[Entry], column: Column, samples: Samples) -> list[float] | None:
    """Each row's mean (higher is better) over the samples all rows share; None if prompts are too few."""
    tables = [samples.get((entry.label, column.label)) for entry in entries]
    shared = _side_by_side([table for table in tables if table is not None])
    if any(table is None for table in tables) or _prompts(shared).nunique() < stats.CLAIM_PROMPTS:
        return None
    sign = 1 if column.score_set.higher_is_better else -1
    values = [stats.per_prompt(_prompts(shared), shared[side])[1] for side in shared]
    return [sign * math.fsum(row) / len(row) for row in values]


def _side_by_side(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The scores in columns 0, 1, ..., for the samples that every table has a score for."""
    scores = {number: table["score"] for number, table in enumerate(tables)}
    return pd.concat(scores, axis=1, join="inner").dropna().sort_index()


def _prompts(table: pd.DataFrame) -> pd.Index[int]:
    return table.index.get_level_values("prompt_id")
