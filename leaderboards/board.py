"""The records that make up a leaderboard. `leaderboards.builder` computes them, `render` and others show
them.

A section holds the runs of one suite with one prompt set. Each run is an entry, each reward with one score id
is a column, and a cell is one entry's scores in one column. Another generation of a system is another entry,
another score id is another column; results are never averaged over either. Standings summarise the section:
one for each method (all of its training seeds together) or single system.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, NamedTuple, Self

from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from leaderboards.stats import Comparison, Estimate

Claim = Literal["better", "worse", "undecided", "too few prompts"]

Exposure = Literal["trained-on", "same-family", "held-out", "undeclared"]
"""Whether a system was trained on a reward, or on another one of its family. "held-out" is neither. Judges
count as "held-out" here; `Group` lists them separately."""

Group = Literal["trained-on", "same-family", "held-out", "judge", "human"]
"""Group of a column in the whole section; see `leaderboards.verdicts.group`. "held-out" are rewards that no
system was trained on and that are not judges."""


class _GroupLabels(NamedTuple):
    """What a group of rewards is called on a board."""

    title: str
    """Title of its column in the opening table."""
    noun: str
    """Its rewards, within a sentence."""
    heading: str
    """Heading of its panels in a picture."""


GROUPS: Mapping[Group, _GroupLabels] = {
    "trained-on": _GroupLabels("trained on", "training rewards", "Rewards trained on"),
    "same-family": _GroupLabels(
        "related to a reward trained on", "related rewards", "Related to a reward trained on"
    ),
    "held-out": _GroupLabels("held out", "held-out rewards", "Held-out rewards"),
    "judge": _GroupLabels("judges", "judges", "Judges"),
    "human": _GroupLabels("human votes", "human votes", "Human votes"),
}
"""All groups, in the order in which boards show them."""

CellKey = tuple[str, str, str | None]
"""(entry label, column label, category or None for all prompts)."""


@dataclass(frozen=True)
class Entry:
    """One run."""

    label: str
    """Name of the system, followed by the generation id where the name is ambiguous."""
    run: RunState
    rank: int | None = None
    """Rank of the entry's standing. None if the standing has none."""
    gap: float | None = None
    """Over-optimisation; see `leaderboards.gains.Gains.gap`."""
    unknown: tuple[str, ...] = ()
    """Declared training rewards that are neither on the board nor known to whoever recorded the run."""

    @property
    def full_name(self) -> str:
        """`system@generation id`, which is never ambiguous."""
        return f"{self.run.header.system}@{self.run.header.generation_id}"

    @property
    def trained_on(self) -> tuple[str, ...] | None:
        """Rewards that the system was trained on; None if it does not declare them."""
        declared = self.run.header.details.get("trained_on")
        return None if declared is None else tuple(declared)

    @property
    def is_declared(self) -> bool:
        """Whether it is known which rewards the system was trained on."""
        return self.trained_on is not None and not self.unknown

    def setting(self, name: str) -> str:
        """A generation setting as text; "default" where it is not set."""
        value = self.run.header.generation.get(name)
        return "default" if value is None else str(value)

    def is_called(self, name: str) -> bool:
        """Whether `name` is the system's name or the full name."""
        return name in (self.run.header.system, self.full_name)


@dataclass(frozen=True)
class Column:
    """A reward with one score id."""

    label: str
    """Name of the reward, followed by the score id where the name is ambiguous."""
    score_set: ScoreSet
    group: Group = "held-out"

    @property
    def title(self) -> str:
        """The label, with an arrow for the better direction."""
        return f"{self.label} {'↑' if self.score_set.higher_is_better else '↓'}"


@dataclass(frozen=True)
class Cell:
    """One entry's scores in one column, on all prompts (`category` None) or on one category of them."""

    entry: str
    column: str
    category: str | None
    higher_is_better: bool
    exposure: Exposure
    mean: Estimate
    samples: int
    """Scored images behind the mean."""
    planned: int
    """Images that the run planned for these prompts."""
    prompts: int
    """Prompts of the suite (in a category: of the category) that any run of the section planned."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Planned images without a score: reason to count. Empty in cells of a category."""
    comparison: Comparison | None = None
    """Comparison with the baseline; None for the baseline itself and where no image can be paired."""
    p_adjusted: float = math.nan
    """On all prompts: Holm's p over all such comparisons of the section. In a category: Benjamini and
    Hochberg's q over the categories of the column."""
    claim: Claim | None = None
    """Set only where `comparison` is, and only on all prompts."""

    @property
    def key(self) -> CellKey:
        return self.entry, self.column, self.category

    @property
    def scored_prompts(self) -> str:
        """Number of prompts behind the mean, such as "400", or "240 of 400" where some have no score."""
        if self.mean.n < self.prompts:
            return f"{self.mean.n:,} of {self.prompts:,}"
        return str(self.mean.n)

    @property
    def coverage(self) -> str:
        """What the mean is over, such as "n = 240 of 400", unless it is over all prompts and images."""
        if self.mean.n < self.prompts:
            return f"n = {self.scored_prompts}"
        return f"{self.samples:,} of {self.planned:,} images" if self.samples < self.planned else ""

    def record(self) -> dict[str, Any]:
        """The cell as the schema of leaderboard.json describes it; undefined values are NaN."""
        return {
            "system": self.entry,
            "reward": self.column,
            "category": self.category,
            "exposure": self.exposure,
            "mean": asdict(self.mean),
            "samples": self.samples,
            "planned_samples": self.planned,
            "planned_prompts": self.prompts,
            "comparison": asdict(self.comparison) if self.comparison else None,
            "p_adjusted": self.p_adjusted,
            "claim": self.claim,
        }


@dataclass(frozen=True)
class SeedAgreement:
    """Differences of a method's training seeds to the baseline, and the claim that all seeds share."""

    seeds: tuple[float, ...]
    """Mean difference of each training seed."""
    claim: Claim
    """The claim that every seed makes; "undecided" if they differ."""
    estimate: Estimate | None = None
    """Difference of the seeds' average, with an interval over prompts (not over training seeds)."""

    @classmethod
    def of(
        cls, seeds: Sequence[float], claims: Iterable[Claim | None], estimate: Estimate | None = None
    ) -> Self:
        """The agreement of seeds with these mean differences and claims."""
        distinct = set(claims)
        shared = distinct.pop() if len(distinct) == 1 else None
        return cls(tuple(seeds), shared or "undecided", estimate)

    @classmethod
    def of_cells(cls, cells: Sequence[Cell | None]) -> Self | None:
        """The agreement of one method's cells in one column; None unless every seed was compared."""
        compared = [cell for cell in cells if cell and cell.comparison]
        if not compared or len(compared) < len(cells):
            return None
        seeds = [cell.comparison.difference.value for cell in compared if cell.comparison]
        return cls.of(seeds, [cell.claim for cell in compared])

    @property
    def mean(self) -> float:
        return fmean(self.seeds)

    @property
    def low(self) -> float:
        """Smallest difference of any seed."""
        return min(self.seeds)

    @property
    def high(self) -> float:
        """Largest difference of any seed."""
        return max(self.seeds)


@dataclass(frozen=True)
class Standing:
    """A row of the opening table: a method with all of its training seeds, or a single system."""

    label: str
    entries: tuple[str, ...]
    """Labels of its runs, one for each training seed."""
    is_method: bool
    """Whether the runs declare a method; `label` is then its name."""
    rank: int | None
    """1 is best; rows whose difference is not resolved share a rank. None if the row cannot be ranked."""
    gains: Mapping[Group, SeedAgreement]
    """Mean gain over the baseline, in standard deviations of the baseline's prompts; higher is better."""
    differences: Mapping[str, SeedAgreement]
    """Difference to the baseline in each column, in units of the reward."""
    verdict: str
    """Conclusion from the gains, and what limits it."""
    is_complete: bool
    """Whether no run of the row lacks an image, a score, or prompts or rewards by which others are ranked."""
    cautions: tuple[str, ...] = ()
    """Why the row is not fully comparable: incomplete, other settings, undeclared training rewards."""


@dataclass(frozen=True)
class Section:
    """The leaderboard of one suite."""

    suite: str
    suite_sha256: str
    baseline: str | None
    entries: tuple[Entry, ...]
    """In the order of the standings."""
    columns: tuple[Column, ...]
    categories: tuple[str, ...]
    """In the order of their first prompts; empty if all prompts are of one category."""
    cells: Mapping[CellKey, Cell]
    standings: tuple[Standing, ...]
    """By rank, rows without a rank last."""
    official_hps: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]]
    """By (entry label, column label): (mean, standard deviation) of each style, as the HPSv2 benchmark
    computes them (`leaderboards.hpsv2`).
    """
    notes: tuple[str, ...]
    """Notes that are shown above the numbers."""

    @cached_property
    def prompts(self) -> int:
        """Number of prompts that any run of the section planned."""
        return len(set().union(*(entry.run.header.planned.prompt_ids for entry in self.entries)))

    def coverage(self, entry: Entry, column: Column | None) -> tuple[int, Mapping[str, int]]:
        """Number of a run's images that a reward scored, and why the other planned ones have no score.

        Args:
            entry: The run.
            column: The reward; None for a section without any scores.

        Returns:
            Scored images, and reason to number of images.
        """
        if column and (cell := self.cells.get((entry.label, column.label, None))):
            return cell.samples, cell.missing
        images = entry.run.images
        reasons = {
            "not generated yet": entry.run.header.planned.count - images,
            "not scored by this reward": images,
        }
        return 0, {reason: count for reason, count in reasons.items() if count}

    def notes_on(self, entry: Entry) -> str:
        """Why a run's numbers are not full results, or not comparable with the baseline's."""
        (standing,) = (standing for standing in self.standings if entry.label in standing.entries)
        return "; ".join(dict.fromkeys([*entry.run.header.watermarks, *standing.cautions]))

    @property
    def watermarks(self) -> list[str]:
        """Each reason why a run of the section is not a full result."""
        return sorted({mark for entry in self.entries for mark in entry.run.header.watermarks})


@dataclass(frozen=True)
class Board:
    """All sections, and the SHA-256 of the scores they were computed from."""

    sections: tuple[Section, ...]
    """One section for each suite."""
    sha256: str
    """Hash of the scores that the board was computed from."""


@dataclass(frozen=True)
class Stamp:
    """Versions, commit and date, written into every table of a board."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that computed it."""
    commit: str | None = None
    date: str | None = None
    """Date as the caller gives it; no clock is read."""

    def text(self) -> str:
        """The stamp in one line."""
        parts = [f"{name} {version}" for name, version in self.versions.items()]
        parts += [f"commit {self.commit[:8]}"] if self.commit else []
        return ", ".join([*parts, *([self.date] if self.date else [])]) or "unknown versions"
