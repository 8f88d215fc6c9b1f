"""Coverage of confidence intervals and rate of false positives, by simulation.

    python scripts/stats_simulation.py [--repetitions 4000] [--out docs/statistics.md]

Coverage: how often the 95 % interval contains the true mean difference. False positives: how often two equal
systems differ, by the permutation p alone, and by a leaderboard's claim (p and interval) without its
correction for many comparisons. Takes about 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from leaderboards import stats  # noqa: E402 - of this checkout

_SIZES = (10, 20, 50, 100, 300, 1600)
_SEEDS = 4
_BATCH = 250
"""Number of experiments that are computed at once."""

_Values = NDArray[np.float64]
_Sampler = Callable[[np.random.Generator, tuple[int, int]], _Values]
"""Samples values (experiments, prompts)."""


@dataclass(frozen=True)
class _Distribution:
    """A distribution of differences with known mean, and one for pairs of equal systems."""

    name: str
    description: str
    differences: _Sampler
    mean: float
    """True mean of the differences."""
    system: _Sampler
    """Values of one system, without the difficulty of prompts, which both systems share."""


def _distributions() -> list[_Distribution]:
    """Return distributions like those of rewards, and less favourable ones."""
    return [
        _Distribution("normal", "Differences N(0, 1)", _normal, 0.0, _normal),
        _Distribution(
            "Lognormal",
            "Differences exp N(0, 1), with a long tail on one side",
            _lognormal,
            math.exp(0.5),
            _lognormal,
        ),
        _Distribution(
            "Rare differences",
            "Nine of ten prompts tie; of the others, two thirds gain 1 and one third loses 1",
            _rare,
            0.1 * (2 / 3 - 1 / 3),
            lambda g, s: (g.random(s) < 0.05).astype(np.float64),
        ),
        _Distribution(
            "Correlated seeds",
            f"{_SEEDS} seeds per prompt; differences N(0, 1) with correlation 0.5 within a prompt",
            _seeds,
            0.0,
            _seeds,
        ),
    ]


def _normal(generator: np.random.Generator, shape: tuple[int, int]) -> _Values:
    return generator.normal(size=shape)


def _lognormal(generator: np.random.Generator, shape: tuple[int, int]) -> _Values:
    return generator.lognormal(size=shape)


def _rare(generator: np.random.Generator, shape: tuple[int, int]) -> _Values:
    differ = generator.random(shape) < 0.1
    return np.where(differ, np.where(generator.random(shape) < 2 / 3, 1.0, -1.0), 0.0)


def _seeds(generator: np.random.Generator, shape: tuple[int, int]) -> _Values:
    shared = generator.normal(size=shape)[..., None]
    seeds = math.sqrt(0.5) * (shared + generator.normal(size=(*shape, _SEEDS)))
    prompts = np.repeat(np.arange(shape[1]), _SEEDS)
    return np.stack([stats.per_prompt(prompts, row.ravel())[1] for row in seeds])


@dataclass(frozen=True)
class _Shares:
    """Shares of the experiments."""

    covered: float
    """Interval contains the true mean."""
    small_p: float
    """p is below 0.05 for equal systems."""
    claimed: float
    """A leaderboard would claim a difference of equal systems."""


def _simulate(kind: _Distribution, n: int, repetitions: int, seed: int = 0) -> _Shares:
    """Simulate experiments of ``n`` prompts."""
    generator = np.random.default_rng([seed, n, *kind.name.encode()])
    covered, small, claimed = 0, 0, 0
    for start in range(0, repetitions, _BATCH):
        shape = (min(_BATCH, repetitions - start), n)
        intervals = stats.mean_intervals(list(kind.differences(generator, shape)))
        covered += sum(e.low <= kind.mean <= e.high for e in intervals)
        equal = kind.system(generator, shape) - kind.system(generator, shape)
        for comparison in stats.comparisons([(row, True) for row in equal]):
            is_small = comparison.p < 1 - stats.LEVEL
            small += is_small
            claimed += is_small and not comparison.difference.low <= 0 <= comparison.difference.high
    return _Shares(covered / repetitions, small / repetitions, claimed / repetitions)


_METHODS = """\
# Statistics

## Methods

The unit is the prompt: the images of a prompt are averaged first, and only prompts are resampled.
Differences are paired: same prompts, same noise. Intervals are studentised bootstrap intervals (bootstrap-t),
at neither end narrower than Student's t interval. p is from a two-sided sign-flip permutation test.

Taken from SciPy:

- Benjamini and Hochberg's correction: `scipy.stats.false_discovery_control`, which needs undefined p-values
  left out first.
- Quantiles of Student's t: `scipy.stats.t`.

Own code in [leaderboards/stats.py](../leaderboards/stats.py):

- Holm's correction: ten lines, and SciPy has none.
- Bootstrap-t intervals: `scipy.stats.bootstrap` has percentile, basic and BCa intervals only, which cover too
  little on skewed data.
- Sign-flip test: `scipy.stats.permutation_test` gives the same p for few prompts (a test compares them), but
  handles one comparison at a time. Here all comparisons of a board share their sign flips, and resampled
  means of all rewards are one matrix product, which is much faster.

## Coverage and false positives
"""


def _page(repetitions: int) -> Iterator[str]:
    """Yield the lines of the page as they are simulated."""
    yield from _METHODS.splitlines()
    yield ""
    error = 1.96 * math.sqrt(stats.LEVEL * (1 - stats.LEVEL) / repetitions)
    text = (
        "The tables are generated by `scripts/stats_simulation.py` from "
        f"{repetitions:,} simulated experiments per cell: a share of 0.95 is known to ± {error:.3f}. "
        "Intervals are studentised bootstrap intervals with "
        f"{stats.RESAMPLES:,} resamples of prompts, and at neither end narrower than Student's interval. "
        f"**Bold** shares are outside 0.93 to 0.97, or above 0.06. Below {stats.CLAIM_PROMPTS} prompts a "
        "leaderboard makes no claim, for the reasons that these tables show."
    )
    yield from wrap(text, 110)
    for kind in _distributions():
        yield ""
        yield f"### {kind.name.capitalize()}"
        yield ""
        yield f"{kind.description}. Last two columns: false positives, for two such systems that are equal."
        yield ""
        yield "| prompts | coverage of 95 % intervals | p below 0.05 | claims |"
        yield "|---|---|---|---|"
        for n in _SIZES:
            shares = _simulate(kind, n, repetitions)
            positives = (_cell(share, 0, 0.06) for share in (shares.small_p, shares.claimed))
            cells = [_cell(shares.covered, 0.93, 0.97), *positives]
            yield f"| {n:,} | {' | '.join(cells)} |"


def _cell(share: float, low: float, high: float) -> str:
    return f"{share:.3f}" if low <= share <= high else f"**{share:.3f}**"


def main() -> None:
    """Simulate, print, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--out", type=Path)
    options: Any = parser.parse_args()
    lines = []
    for line in _page(options.repetitions):
        print(line, flush=True)
        lines.append(line)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
