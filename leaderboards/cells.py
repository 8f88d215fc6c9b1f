"""From scores to the cells of a section: means, paired comparisons and claims.

Comparisons are paired by prompt and sample index, so they are between images that started from the same
noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from leaderboards import stats
from leaderboards.board import Cell, CellKey, Column, Entry
from leaderboards.scores import Categories, RewardScores, Table
from leaderboards.stats import Values
from leaderboards.verdicts import claims, exposure

REASONS = 4
"""Distinct reasons for missing scores that a cell keeps, at most: each image may have a reason of its own."""


@dataclass(frozen=True, eq=False)
class _Job:
    """A cell before its statistics are computed."""

    entry: Entry
    column: Column
    category: str | None
    values: Values
    """One for each prompt."""
    samples: int
    planned: int
    """Images that the run planned for these prompts."""
    prompts: int
    """Prompts that any run planned."""
    differences: Values | None
    """Differences to the baseline, one for each prompt that both have."""
    missing: Mapping[str, int] = field(default_factory=dict)


def section_cells(
    entries: Sequence[Entry],
    columns: Sequence[Column],
    scores: Table,
    by_category: Categories,
    baseline: str | None,
) -> dict[CellKey, Cell]:
    """All cells with samples, on all prompts and on each category; only those on all prompts have claims."""
    planned = {entry.label: np.array(entry.run.header.planned.prompt_ids, np.int64) for entry in entries}
    prompts = np.unique(np.concatenate(list(planned.values())))
    jobs = [
        job
        for entry in entries
        for column in columns
        if (entry.label, column.label) in scores
        for job in _jobs(entry, column, scores, by_category, baseline, planned[entry.label], prompts)
    ]
    whole = _computed([job for job in jobs if job.category is None], columns, stats.RESAMPLES)
    parts = _computed([job for job in jobs if job.category is not None], columns, stats.EXPLORATORY_RESAMPLES)
    return {cell.key: cell for cell in (*with_claims(whole), *_exploratory(parts))}


def _computed(jobs: Sequence[_Job], columns: Sequence[Column], resamples: int) -> list[Cell]:
    """The jobs' cells with their statistics, computed together because that is fastest."""
    means = stats.mean_intervals([job.values for job in jobs], resamples=resamples)
    pairs = [
        (job.differences, job.column.score_set.higher_is_better)
        for job in jobs
        if job.differences is not None
    ]
    compared = iter(stats.comparisons(pairs, resamples=resamples))
    return [
        Cell(
            entry=job.entry.label,
            column=job.column.label,
            category=job.category,
            higher_is_better=job.column.score_set.higher_is_better,
            exposure=exposure(job.entry, job.column, columns),
            mean=mean,
            samples=job.samples,
            planned=job.planned,
            prompts=job.prompts,
            missing=job.missing,
            comparison=None if job.differences is None else next(compared),
        )
        for job, mean in zip(jobs, means, strict=True)
    ]


def _jobs(
    entry: Entry,
    column: Column,
    scores: Table,
    by_category: Categories,
    baseline: str | None,
    planned: NDArray[np.int64],
    suite: NDArray[np.int64],
) -> Iterator[_Job]:
    """The jobs of one entry and column: all prompts, then each category.

    ``planned`` are the prompts of the entry's plan, ``suite`` those that any entry of the section planned.
    """
    scored = scores[entry.label, column.label]
    reference = scores.get((baseline, column.label)) if baseline and baseline != entry.label else None
    prompts, values = scored.by_prompt
    counts = scored.samples_of(prompts)
    both, differences = scored.minus(reference) if reference else (prompts, np.zeros(0))
    seeds = entry.run.header.planned.seeds
    yield _Job(
        entry,
        column,
        None,
        values,
        int(counts.sum()),
        len(planned) * seeds,
        len(suite),
        _some(differences),
        _missing(scored, entry),
    )
    for name, members in by_category.items():
        here, here_both = np.isin(prompts, members), np.isin(both, members)
        yield _Job(
            entry,
            column,
            name,
            values[here],
            int(counts[here].sum()),
            int(np.isin(planned, members).sum()) * seeds,
            len(members),
            _some(differences[here_both]) if reference else None,
        )


def _missing(scored: RewardScores, entry: Entry) -> dict[str, int]:
    """Why planned images have no score: the `REASONS` most frequent reasons and the count of the others."""
    reasons = Counter(scored.reasons.values())
    named = dict(sorted(reasons.most_common(REASONS)))
    planned, attempted = entry.run.header.planned, len(scored.values)
    complete = attempted == planned.count
    recorded = attempted if complete else sum(key in planned for key in entry.run.samples)
    rest = {
        "other reasons, listed in its score files": reasons.total() - sum(named.values()),
        "not generated yet": planned.count - recorded,
        "not scored yet": recorded - attempted,
    }
    return named | {reason: count for reason, count in rest.items() if count}


def _some(differences: Values) -> Values | None:
    return differences if len(differences) else None


def with_claims(cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of one family of comparisons, with Holm's p over all of them and what they claim."""
    results = claims([cell.comparison for cell in cells], [cell.higher_is_better for cell in cells])
    for cell, (p, claim) in zip(cells, results, strict=True):
        yield replace(cell, p_adjusted=p, claim=claim)


def _exploratory(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Cells of categories with Benjamini and Hochberg's q over those of their column. They claim nothing."""
    by_column: dict[str, list[Cell]] = {}
    for cell in cells:
        by_column.setdefault(cell.column, []).append(cell)
    for members in by_column.values():
        p_values = [cell.comparison.p if cell.comparison else np.nan for cell in members]
        for cell, q in zip(members, stats.benjamini_hochberg(p_values), strict=True):
            yield replace(cell, p_adjusted=q)
