"""Whether the statistics keep their promises: coverage of intervals and false positives, by simulation.

    python scripts/stats_simulation.py [--repetitions 4000] [--out docs/statistics.md]

Coverage is of the mean difference by the 95 % interval. False positives are of two systems that are alike, by
the permutation p alone and by a leaderboard's claim (p and interval) without its correction for many
comparisons. About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from leaderboards import stats  # noqa: E402 - of this checkout

SIZES = (10, 20, 50, 100, 300, 1600)
SEEDS = 4
BATCH = 250
"""Experiments at a time."""

Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Values]
"""Values of experiments x prompts."""


@dataclass(frozen=True)
class Kind:
    """A kind of data: differences of a known mean, and pairs of systems that are alike."""

    name: str
    what: str
    differences: Draw
    mean: float
    system: Draw
    """One system's values, apart from the difficulty that both share."""


def kinds() -> list[Kind]:
    """What rewards look like, and worse."""
    return [
        Kind("normal", "Differences N(0, 1)", _normal, 0.0, _normal),
        Kind(
            "Lognormal",
            "Differences exp N(0, 1): a long tail to one side",
            _lognormal,
            math.exp(0.5),
            _lognormal,
        ),
        Kind(
            "Rare differences",
            "Nine of ten prompts tie; of the others two thirds gain 1 and one third loses 1",
            _rare,
            0.1 * (2 / 3 - 1 / 3),
            lambda g, s: (g.random(s) < 0.05).astype(np.float64),
        ),
        Kind(
            "Correlated seeds",
            f"{SEEDS} seeds a prompt, whose differences N(0, 1) correlate by 0.5",
            _seeds,
            0.0,
            _seeds,
        ),
    ]


def _normal(generator: np.random.Generator, shape: tuple[int, int]) -> Values:
    return generator.normal(size=shape)


def _lognormal(generator: np.random.Generator, shape: tuple[int, int]) -> Values:
    return generator.lognormal(size=shape)


def _rare(generator: np.random.Generator, shape: tuple[int, int]) -> Values:
    differ = generator.random(shape) < 0.1
    return np.where(differ, np.where(generator.random(shape) < 2 / 3, 1.0, -1.0), 0.0)


def _seeds(generator: np.random.Generator, shape: tuple[int, int]) -> Values:
    shared = generator.normal(size=shape)[..., None]
    seeds = math.sqrt(0.5) * (shared + generator.normal(size=(*shape, SEEDS)))
    prompts = np.repeat(np.arange(shape[1]), SEEDS)
    return np.stack([stats.per_prompt(prompts, row.ravel())[1] for row in seeds])


@dataclass(frozen=True)
class Found:
    """Shares of the experiments."""

    covered: float
    p: float
    claimed: float


def simulate(kind: Kind, n: int, repetitions: int, seed: int = 0) -> Found:
    """Many experiments of ``n`` prompts."""
    generator = np.random.default_rng([seed, n, *kind.name.encode()])
    covered, small, claimed = 0, 0, 0
    for start in range(0, repetitions, BATCH):
        shape = (min(BATCH, repetitions - start), n)
        intervals = stats.mean_intervals(list(kind.differences(generator, shape)))
        covered += sum(e.low <= kind.mean <= e.high for e in intervals)
        alike = kind.system(generator, shape) - kind.system(generator, shape)
        for found in stats.comparisons([(row, True) for row in alike]):
            is_small = found.p < 1 - stats.LEVEL
            small += is_small
            claimed += is_small and not found.difference.low <= 0 <= found.difference.high
    return Found(covered / repetitions, small / repetitions, claimed / repetitions)


def page(repetitions: int) -> Iterator[str]:
    """The page, line by line, as it is simulated."""
    yield "# Do the statistics hold?"
    yield ""
    error = 1.96 * math.sqrt(stats.LEVEL * (1 - stats.LEVEL) / repetitions)
    yield f"Made by `scripts/stats_simulation.py`: {repetitions:,} experiments a cell, so a share of 0.95 is"
    yield f"known to ± {error:.3f}. Intervals: studentised bootstrap, {stats.RESAMPLES:,} resamples, at"
    yield "neither end narrower than Student's; the unit is the prompt. **Bold**: outside 0.93 to 0.97, or"
    yield "above 0.06. Below"
    yield f"{stats.CLAIM_PROMPTS} prompts a leaderboard makes no claim: these rows say why."
    for kind in kinds():
        yield ""
        yield f"## {kind.name.capitalize()}"
        yield ""
        yield f"{kind.what}; false positives are of two such systems that are alike."
        yield ""
        yield "| prompts | 95 % intervals that cover | p below 0.05 | claims |"
        yield "|---|---|---|---|"
        for n in SIZES:
            found = simulate(kind, n, repetitions)
            cells = [
                _cell(found.covered, 0.93, 0.97), _cell(found.p, 0, 0.06), _cell(found.claimed, 0, 0.06)
            ]  # fmt: skip
            yield f"| {n:,} | {' | '.join(cells)} |"


def _cell(share: float, low: float, high: float) -> str:
    return f"{share:.3f}" if low <= share <= high else f"**{share:.3f}**"


def main() -> None:
    """Simulate, print, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--out", type=Path)
    options: Any = parser.parse_args()
    lines = []
    for line in page(options.repetitions):
        print(line, flush=True)
        lines.append(line)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
