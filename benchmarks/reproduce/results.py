"""Results of the comparison: boards of its systems, and the cells of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.reproduce.ceiling import NAME as CEILING
from benchmarks.reproduce.tasks import TABULATED, Looks, TrainingResult
from benchmarks.reproduce.world import BASELINE, HEADLINE, HEADLINE_VARIANTS, METHODS, VARIANTS, Method, Scale
from leaderboards.board import Board, Cell, Section, SeedAgreement
from leaderboards.builder import build
from leaderboards.cells import with_claims
from leaderboards.render import EXPOSURES, MARKS, range_text
from leaderboards.run_state import RunState

TITLES: Mapping[str, str] = {
    BASELINE: "base",
    CEILING: "ceiling: true scenes in the best looks",
    **{name: method.title for name, method in METHODS.items()},
    **{variant.name: variant.title for variant in VARIANTS},
}

FIRST = HEADLINE[0]
"""The method that the others are compared with."""


@dataclass(frozen=True)
class Results:
    """Results in the folder of the work."""

    folder: Path
    scale: Scale
    headline_only: bool = False

    @cached_property
    def runs(self) -> Mapping[str, RunState]:
        """Run folders by system."""
        files = sorted((self.folder / TABULATED).iterdir())
        names = {file.name: file.read_text(encoding="utf-8").strip() for file in files}
        return {system: RunState(self.folder / "runs" / name) for system, name in names.items()}

    def seeds(self, name: str) -> list[str]:
        """Return the systems of a method, one per training seed, or a system without training."""
        if name not in METHODS:
            return [name]
        return [f"{name}-{seed}" for seed in self.scale.seeds_of(METHODS[name])]

    def training(self, method: Method, seed: int) -> TrainingResult:
        """Return the result of a method's training run."""
        rates = method.rates[: self.scale.trials]
        return TrainingResult.of_seed(self.folder, method.name, seed, rates)

    def looks(self, name: str) -> Looks:
        """Return the colourfulness and darkness of a system's images."""
        return Looks.read(self.folder, name)

    @property
    def headline(self) -> list[str]:
        """Names of the headline's methods and systems."""
        return [*HEADLINE, *HEADLINE_VARIANTS]

    def board(self, names: Sequence[str], baseline: str = BASELINE) -> Board:
        """Return the board of some systems against a baseline."""
        return build([self.runs[name] for name in dict.fromkeys([baseline, *names])], baseline)

    def section(self, names: Sequence[str], baseline: str = BASELINE) -> Section:
        """Return the only section of `board`."""
        (section,) = self.board(names, baseline).sections
        return section

    @cached_property
    def against_base(self) -> Section:
        """All headline systems against the base model, one family for Holm's correction."""
        return self.section([system for name in self.headline for system in self.seeds(name)])

    @cached_property
    def against_first(self) -> Mapping[tuple[str, str], Sequence[Cell]]:
        """The first method against each other one: (other, column) -> a cell per training seed.

        Seeds of the same number are paired. All of these comparisons are one family for Holm's correction.
        """
        pairs = [
            (other, self.section([system], other_system))
            for other in self.headline
            if other != FIRST
            for system, other_system in zip(self.seeds(FIRST), self._paired(other), strict=True)
        ]
        keys = [(other, column.label) for other, section in pairs for column in section.columns]
        family = [
            section.cells[entry.label, column.label, None]
            for _, section in pairs
            for column in section.columns
            for entry in section.entries
            if entry.label != section.baseline
        ]
        cells: dict[tuple[str, str], list[Cell]] = {}
        for key, cell in zip(keys, with_claims(family), strict=True):
            cells.setdefault(key, []).append(cell)
        return cells

    def _paired(self, name: str) -> list[str]:
        """Return a system of a method for each seed of the first one; the same one if it has no seeds."""
        systems = self.seeds(name)
        return systems if len(systems) > 1 else systems * len(self.seeds(FIRST))

    @staticmethod
    def title(label: str) -> str:
        """Return the title of a system or a method."""
        return TITLES.get(label) or TITLES[label.rpartition("-")[0]]

    @staticmethod
    def text(cells: Sequence[Cell | None], prompts: int = 0, *, ranges: bool = True) -> str:
        """Return a system's difference to the baseline in one column, or the agreement of a method's seeds.

        Args:
            cells: The cell of each seed; None or without a comparison gives "–".
            prompts: Number of prompts that the reader expects, by default all of the suite; fewer are stated.
            ranges: Also the interval, or the smallest and the largest seed.
        """
        agreed = SeedAgreement.of_cells(cells)
        if agreed is None or cells[0] is None:
            return "–"
        first = cells[0]
        differences = [cell.comparison.difference for cell in cells if cell and cell.comparison]
        difference = min(differences, key=lambda one: one.n)
        incomplete = difference.n < (prompts or first.prompts)
        missing = f" [n = {difference.n} of {first.prompts}]" if incomplete else ""
        low, high = (agreed.low, agreed.high) if len(cells) > 1 else (difference.low, difference.high)
        text = range_text(agreed.mean, low, high, ends=ranges)
        return f"{text} {MARKS[agreed.claim]}{EXPOSURES[first.exposure]}{missing}"
