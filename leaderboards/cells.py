"""From scores to the cells of a section: means, paired comparisons and claims.

Comparisons are paired by prompt and sample, so they are between images that were drawn from the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaderboards import stats
from leaderboards.board import Cell, CellKey, Claim, Column, Entry
from leaderboards.scores import RunScores, Table, paired
from leaderboards.stats import Estimate, Values
from leaderboards.verdicts import exposure

Groups = Mapping[str, NDArray[np.int64]]
"""Prompts of each category and further group."""


def categories(runs: Iterable[RunScores]) -> Groups:
    """The categories, then the further groups, each in the order of their first prompts.

    None of a kind of which all prompts are alike.
    """
    found: tuple[dict[str, set[int]], dict[str, set[int]]] = {}, {}
    for run in runs:
        for (prompt, _), sample in run.samples.items():
            for kind, names in zip(found, ((sample.category,), sample.groups), strict=True):
                for name in names:
                    kind.setdefault(name, set()).add(prompt)
    kept: dict[str, set[int]] = {}
    for kind in found:
        if len(kind) > 1:
            kept |= {name: kind[name] for name in sorted(kind, key=lambda name: (min(kind[name]), name))}
    return {name: np.array(sorted(prompts), dtype=np.int64) for name, prompts in kept.items()}


@dataclass(frozen=True, eq=False)
class _Job:
    """A cell before its statistics."""

    entry: Entry
    column: Column
    category: str | None
    values: Values
    """One a prompt."""
    samples: int
    differences: Values | None
    """To the baseline, one a prompt that both have."""


def cells(
    entries: Sequence[Entry], columns: Sequence[Column], scores: Table, groups: Groups, baseline: str | None
) -> dict[CellKey, Cell]:
    """All cells that have samples, on all prompts and on each category; headline cells have claims."""
    jobs = [
        job
        for entry in entries
        for column in columns
        if (entry.label, column.label) in scores
        for job in _jobs(entry, column, scores, groups, baseline)
    ]
    headline = _computed([job for job in jobs if job.category is None], columns, stats.RESAMPLES)
    explored = _computed([job for job in jobs if job.category is not None], columns, stats.EXPLORING)
    return {cell.key: cell for cell in (*claimed(headline), *_explored(explored))}


def _computed(jobs: Sequence[_Job], columns: Sequence[Column], resamples: int) -> list[Cell]:
    """The jobs' cells with their statistics, which are fastest made together."""
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
            comparison=None if job.differences is None else next(compared),
        )
        for job, mean in zip(jobs, means, strict=True)
    ]


def _jobs(
    entry: Entry, column: Column, scores: Table, groups: Groups, baseline: str | None
) -> Iterator[_Job]:
    own = scores[entry.label, column.label]
    reference = scores.get((baseline, column.label)) if baseline and baseline != entry.label else None
    prompts, values = own.by_prompt
    counts = own.samples_of(prompts)
    both, differences = paired(own, reference) if reference else (prompts, np.zeros(0))
    yield _Job(entry, column, None, values, int(counts.sum()), _some(differences))
    for name, members in groups.items():
        here, apart = np.isin(prompts, members), np.isin(both, members)
        yield _Job(
            entry,
            column,
            name,
            values[here],
            int(counts[here].sum()),
            _some(differences[apart]) if reference else None,
        )


def _some(differences: Values) -> Values | None:
    return differences if len(differences) else None


def claimed(cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of one family with Holm's p over all of them, and what they claim."""
    adjusted = stats.holm([cell.comparison.p if cell.comparison else math.nan for cell in cells])
    for cell, p in zip(cells, adjusted, strict=True):
        said = _claim(cell.comparison.difference, p, cell.higher_is_better) if cell.comparison else None
        yield replace(cell, p_adjusted=p, claim=said)


def _explored(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Cells of categories with Benjamini and Hochberg's p over those of their column: they claim nothing."""
    by_column: dict[str, list[Cell]] = {}
    for cell in cells:
        by_column.setdefault(cell.column, []).append(cell)
    for members in by_column.values():
        p_values = [cell.comparison.p if cell.comparison else math.nan for cell in members]
        for cell, p in zip(members, stats.benjamini_hochberg(p_values), strict=True):
            yield replace(cell, p_adjusted=p)


def _claim(difference: Estimate, p: float, higher_is_better: bool) -> Claim:
    """A claim needs enough prompts, a small adjusted p and an interval that leaves out zero."""
    if difference.n < stats.CLAIM_PROMPTS:
        return "too few prompts"
    if p >= 1 - stats.LEVEL or difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.value > 0) == higher_is_better else "worse"
