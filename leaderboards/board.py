"""What a leaderboard consists of: plain records, computed by `leaderboards.table`, shown by `render`.

A section holds the runs of one suite with one prompt set. Its rows are runs, its columns are rewards with one
score id: another generation of a system is another row, another score id another column, and nothing is ever
averaged over either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from leaderboards.stats import Comparison, Estimate

Claim = Literal["better", "worse", "undecided", "too few prompts"]

Exposure = Literal["trained-on", "same-family", "held-out", "undeclared"]

CellKey = tuple[str, str, str | None]
"""(entry label, column label, category or None for all prompts)."""


@dataclass(frozen=True)
class Entry:
    """A row: one run. `label` is the system's name, with the generation id where that alone is ambiguous."""

    label: str
    run: RunState
    rank: float | None = None
    """Mean rank over the columns that are held-out for every ranked row (see `verdicts.ranks`)."""
    gap: float | None = None
    """Over-optimisation: its mean gain by rewards it was trained on minus that by held-out ones, each gain in
    deviations of the baseline's prompts. None where it has no gains of both kinds.
    """

    @property
    def full_name(self) -> str:
        """`system@generation id`, which is never ambiguous."""
        return f"{self.run.header.system}@{self.run.header.generation_id}"

    def is_called(self, name: str) -> bool:
        return name in (self.run.header.system, self.full_name)


@dataclass(frozen=True)
class Column:
    """A reward with one score id. `label` is its name, with the score id where that alone is ambiguous."""

    label: str
    score_set: ScoreSet


@dataclass(frozen=True)
class Cell:
    """One system's scores by one reward, on all prompts (`category` None) or on one category's."""

    entry: str
    column: str
    category: str | None
    higher_is_better: bool
    exposure: Exposure
    mean: Estimate
    samples: int
    """Scored images behind the mean."""
    comparison: Comparison | None = None
    """With the baseline; None for the baseline itself and where nothing can be paired."""
    p_adjusted: float = math.nan
    """Holm's over all headline comparisons of the section; in a category Benjamini and Hochberg's over its
    column's categories."""
    claim: Claim | None = None
    """Of headline comparisons only."""

    @property
    def key(self) -> CellKey:
        return self.entry, self.column, self.category


@dataclass(frozen=True)
class Agreement:
    """What all training seeds of one method say by one reward."""

    mean: float
    """Of the seeds' differences to the baseline."""
    low: float
    high: float
    """The least and the greatest of the seeds."""
    claim: Claim
    """What every seed claims; "undecided" where they differ."""


@dataclass(frozen=True)
class Method:
    """Systems that were trained alike but for their seed."""

    name: str
    entries: tuple[str, ...]
    by_column: Mapping[str, Agreement]


@dataclass(frozen=True)
class OfficialHps:
    """A row's (mean, deviation) a style in the HPSv2 benchmark's own arithmetic (`leaderboards.hpsv2`)."""

    entry: str
    column: str
    styles: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Coverage:
    """How many of a run's planned images have a score, and why the others have none (reason to count)."""

    entry: str
    column: str
    scored: int
    planned: int
    missing: Mapping[str, int]


@dataclass(frozen=True)
class Section:
    """The board of one suite. `notes` say what a reader must know before the numbers."""

    suite: str
    suite_sha256: str
    baseline: str | None
    entries: tuple[Entry, ...]
    columns: tuple[Column, ...]
    categories: tuple[str, ...]
    """In the order of their first prompts; empty where all prompts are of one."""
    cells: Mapping[CellKey, Cell]
    methods: tuple[Method, ...]
    official_hps: tuple[OfficialHps, ...]
    coverage: tuple[Coverage, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """All sections, and the SHA-256 of the scores they were computed from."""

    sections: tuple[Section, ...]
    sha256: str
