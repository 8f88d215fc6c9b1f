"""Statistics of a leaderboard: pure functions from per-prompt values to estimates.

The unit is the prompt. A prompt's seeds share its difficulty, so they are averaged first (`per_prompt`) and
only prompts are resampled; that is the cluster bootstrap with prompts as clusters, each weighing the same.
Intervals are studentised (bootstrap-t: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter
12), because rewards are skewed and percentile or BCa intervals cover too little then. Everything random is
seeded, each call with its own generator: a number does not depend on what else stands on the board.

Values are float64 arrays of shape (N,), N prompts, none of them NaN. NaN in a result means "not defined".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 9999
SEED = 20240318
"""Of every resampling; another one moves an interval's ends by about a hundredth of its width."""

CLAIM_PROMPTS = 100
"""With fewer prompts no claim is made, whatever the interval says."""

BOOTSTRAP_PROMPTS = 10
"""With fewer, resampled standard errors are so wild that Student's t is the better interval."""

EXACT_PROMPTS = 14
"""Up to here the sign-flip test goes through all 2^N signs."""

CHUNK = 1 << 17
"""How many resampled values are held at a time: about what a processor caches."""

Method = Literal["bootstrap-t", "t", "constant", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` prompts with its interval at `LEVEL`.

    `method` says where the interval comes from: "bootstrap-t", "t" (Student's, where the bootstrap
    degenerates), "constant" (all values are equal: an interval without width, which is no evidence of
    precision), or "none" (fewer than two prompts: NaN ends).
    """

    value: float
    low: float
    high: float
    n: int
    method: Method

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Comparison:
    """A system against the baseline, over the prompts that both have a score for."""

    difference: Estimate
    """Of the score, system minus baseline, whichever way is better."""
    p: float
    """Two-sided sign-flip permutation test of no difference."""
    win_rate: float
    """Share of prompts where the system is better, ties as a half, in [0, 1]."""


def per_prompt(prompt_ids: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Values]:
    """The prompts (ascending) and each one's mean over its seeds; NaN scores are left out.

    `prompt_ids` and `scores` have shape (S,), one entry a sample. A prompt without any score does not appear.
    """
    ids, values = np.asarray(prompt_ids, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(values)
    prompts, index = np.unique(ids[known], return_inverse=True)
    totals = np.bincount(index, weights=values[known], minlength=len(prompts))
    return prompts, totals / np.bincount(index, minlength=len(prompts))


def mean_interval(values: ArrayLike, *, seed: int = SEED, resamples: int = RESAMPLES) -> Estimate:
    """The mean of `values` (N,), one a prompt, with a studentised bootstrap interval."""
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "none")
    mean = math.fsum(x) / n
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1, "none")
    if np.ptp(x) == 0:
        return Estimate(mean, mean, mean, n, "constant")
    error = float(x.std(ddof=1)) / math.sqrt(n)
    if n >= BOOTSTRAP_PROMPTS:
        tail = (1 - LEVEL) / 2
        low_t, high_t = np.quantile(_bootstrap_t(x, seed, resamples), [tail, 1 - tail], method="nearest")
        if math.isfinite(low_t) and math.isfinite(high_t):
            return Estimate(mean, float(mean - high_t * error), float(mean - low_t * error), n, "bootstrap-t")
    reach = _student_t(n - 1) * error
    return Estimate(mean, mean - reach, mean + reach, n, "t")


def compare(
    system: ArrayLike, baseline: ArrayLike, *, higher_is_better: bool = True, seed: int = SEED
) -> Comparison:
    """Compare paired values, both (N,): entry i of both belongs to the same prompt."""
    a, b = np.asarray(system, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values have shapes {a.shape} and {b.shape}; expected one of each a prompt")
    difference = a - b
    return Comparison(
        mean_interval(difference, seed=seed),
        sign_flip_p(difference, seed=seed),
        win_rate(difference if higher_is_better else -difference),
    )


def sign_flip_p(differences: ArrayLike, *, seed: int = SEED, resamples: int = RESAMPLES) -> float:
    """Two-sided permutation p of "each difference could as well have had the other sign", on the mean.

    Exact over all signs for up to `EXACT_PROMPTS` prompts, else Monte Carlo, where the observed signs count
    as one draw so that p is never 0 (Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero").
    NaN for no differences.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) == 0:
        return math.nan
    # Sums of the same numbers in another order differ in the last bits; those are ties.
    observed = abs(math.fsum(d)) - 1e-12 * math.fsum(np.abs(d))
    if len(d) <= EXACT_PROMPTS:
        signs = np.arange(1 << len(d))[:, None] >> np.arange(len(d)) & 1
        return float(np.mean(np.abs((2 * signs - 1) @ d) >= observed))
    generator = np.random.default_rng(seed)
    extreme = 0
    for start, stop in _chunks(resamples, len(d)):
        draws = generator.integers(0, 256, (stop - start, -(-len(d) // 8)), dtype=np.uint8)
        bits = np.unpackbits(draws, axis=1)
        extreme += int(np.sum(np.abs((2.0 * bits[:, : len(d)] - 1) @ d) >= observed))
    return (1 + extreme) / (1 + resamples)


def win_rate(differences: ArrayLike) -> float:
    """Share of positive differences, zeros as a half; NaN for none."""
    d = np.asarray(differences, dtype=np.float64)
    return float(np.mean(np.sign(d) + 1) / 2) if len(d) else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment for testing all `p_values` at once; NaN stays and does not count."""
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    running = 0.0
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[i] = running
    return adjusted


def mean_ranks(columns: Sequence[Sequence[float]]) -> list[float]:
    """Mean rank of each system over columns of gains (higher is better); 1 is best, ties share a rank.

    `columns` holds one sequence of K gains for each of C columns; returns K ranks.
    """
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(-np.asarray(column, dtype=np.float64)) for column in columns])
    return [float(rank) for rank in ranks.mean(axis=0)]


def _bootstrap_t(x: Values, seed: int, resamples: int) -> Values:
    """Studentised means (resamples,) of resampled prompts; infinite where all drawn values are equal."""
    n, centred = len(x), x - x.mean()
    moments = np.stack([centred, centred**2], axis=1)
    draws = _draws(n, seed, resamples)
    parts = [draws[start:stop] @ moments for start, stop in _chunks(resamples, n)]
    sums, squares = np.concatenate(parts).T
    variances = (squares - sums**2 / n) / (n - 1)
    # Of equal values only rounding is left, far below the smallest real spread of centred values.
    variances[variances <= 1e-12 * squares] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums == 0, 0.0, sums / n / np.sqrt(variances / n))


@lru_cache(maxsize=16)
def _draws(n: int, seed: int, resamples: int) -> NDArray[np.uint8]:
    """How often each of `n` prompts is drawn in each resample, (resamples, n). Kept: a board asks often."""
    generator = np.random.default_rng(seed)
    found = np.empty((resamples, n), dtype=np.uint8)
    for start, stop in _chunks(resamples, n):
        drawn = generator.integers(0, n, (stop - start, n)) + n * np.arange(stop - start)[:, None]
        found[start:stop] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return found


def _student_t(freedom: int) -> float:
    """The quantile of Student's t that leaves half of 1 - LEVEL above it."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _chunks(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of `rows` rows of `width` values, none above `CHUNK` values (but at least one row)."""
    return pairwise([*range(0, rows, max(1, CHUNK // width)), rows])
