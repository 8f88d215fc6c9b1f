"""Statistics of a leaderboard: pure functions from per-prompt values to estimates.

The unit is the prompt. The images of a prompt share its difficulty, so they are averaged first (`per_prompt`)
and only prompts are resampled: a cluster bootstrap with prompts as clusters of equal weight. Intervals are
studentised (bootstrap-t; Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 12), because
rewards are skewed, and percentile and BCa intervals then cover too little. Neither end is narrower than
Student's t interval, because the bootstrap covers too little where nearly all prompts tie
(docs/statistics.md). All random numbers are seeded, so a result does not depend on what else is on the board.

Values are float64 arrays of shape (N,), one for each of N prompts, without NaN. NaN in a result means "not
defined".
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
"""Confidence level of all intervals."""

POWER = 0.8
"""Power at which the detectable difference is given."""

RESAMPLES = 9999
"""Bootstrap resamples and random sign flips of each headline comparison."""

EXPLORATORY_RESAMPLES = 1999
"""The same for results that claim nothing, such as those of categories."""

SEED = 20240318
"""Seed of all resampling. Another seed moves the ends of an interval by about a hundredth of its width."""

CLAIM_PROMPTS = 100
"""No claim is made on fewer prompts, whatever the interval is."""

BOOTSTRAP_PROMPTS = 10
"""On fewer prompts, resampled standard errors vary so much that Student's t interval is better."""

EXACT_PROMPTS = 14
"""Up to this many prompts, the sign-flip test enumerates all 2^N signs."""

CHUNK = 1 << 17
"""Resampled values held at a time: about as many as fit a processor's cache."""

COLUMNS = 512
"""Rows of equal length that are resampled together, at most."""

IntervalMethod = Literal["bootstrap-t", "t", "constant", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` prompts with its interval at `LEVEL`.

    `method` is the source of the interval: "bootstrap-t" (at each end the wider of bootstrap-t and Student's
    t), "t" (Student's t alone, where the bootstrap degenerates), "constant" (all values are equal; the
    interval has no width, which is no evidence of precision), or "none" (fewer than two prompts; the ends are
    NaN).
    """

    value: float
    low: float
    high: float
    n: int
    method: IntervalMethod

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Comparison:
    """A system compared with the baseline, over the prompts that both have a score for."""

    difference: Estimate
    """Mean score of the system minus that of the baseline, also where lower scores are better."""
    p: float
    """Two-sided sign-flip permutation test of no difference."""
    win_rate: float
    """Share of prompts where the system is better, in [0, 1]; a tie counts as a half."""
    detectable: float
    """Smallest true difference that a share `POWER` of such experiments would detect."""


def per_prompt(prompt_ids: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Values]:
    """Average the scores of each prompt's images.

    Args:
        prompt_ids: Prompt of each image, shape (S,).
        scores: Score of each image, shape (S,). NaN scores are left out.

    Returns:
        The prompts that have a score, ascending, shape (N,), and their mean scores, shape (N,).
    """
    ids, values = np.asarray(prompt_ids, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(values)
    prompts, index = np.unique(ids[known], return_inverse=True)
    totals = np.bincount(index, weights=values[known], minlength=len(prompts))
    return prompts, totals / np.bincount(index, minlength=len(prompts))


def spread(values: Values) -> float:
    """Standard deviation (ddof 1) of per-prompt values (N,); 0 below two prompts."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def mean_intervals(
    rows: Sequence[ArrayLike], *, seed: int = SEED, resamples: int = RESAMPLES
) -> list[Estimate]:
    """Mean of each row's values (N,), one for each prompt, with a studentised bootstrap interval.

    Rows of equal length share their resamples, which is faster.
    """
    estimates: dict[int, Estimate] = {}
    for n, indices, table in _by_length(rows):
        # Equal differences can vary in their last bits; that is rounding, not variation between prompts.
        rounding = 1e-12 * np.abs(table).max(axis=0, initial=0)
        varies = np.ptp(table, axis=0) > rounding if n else np.zeros(len(indices), dtype=bool)
        means = [math.fsum(table[:, k]) / n if n else math.nan for k in range(len(indices))]
        wide = np.flatnonzero(varies)
        tails = _tails(table[:, wide], seed, resamples)
        ends = dict(zip(wide.tolist(), tails, strict=True))
        for k, index in enumerate(indices):
            estimates[index] = _estimate(means[k], table[:, k], ends.get(k))
    return [estimates[index] for index in range(len(rows))]


def _estimate(mean: float, x: Values, tails: tuple[float, float] | None) -> Estimate:
    """Turn quantiles of the studentised mean into an interval; they are infinite where the bootstrap
    degenerates, and None where all values are equal.
    """
    n = len(x)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n, "none")
    if tails is None:
        return Estimate(mean, mean, mean, n, "constant")
    error = float(x.std(ddof=1)) / math.sqrt(n)
    low_t, high_t = tails
    reach = _student_t(n - 1)
    method: IntervalMethod = "t"
    if n >= BOOTSTRAP_PROMPTS and math.isfinite(low_t) and math.isfinite(high_t):
        low_t, high_t, method = min(low_t, -reach), max(high_t, reach), "bootstrap-t"
    else:
        low_t, high_t = -reach, reach
    # Inverting the studentised mean swaps its tails: the upper quantile sets the lower end.
    return Estimate(mean, mean - high_t * error, mean - low_t * error, n, method)


def comparisons(
    rows: Sequence[tuple[Values, bool]], *, seed: int = SEED, resamples: int = RESAMPLES
) -> list[Comparison]:
    """Compare systems with a baseline.

    Args:
        rows: For each comparison the paired differences, system minus baseline, shape (N,), and whether
            higher scores are better.
        seed: Seed of the resampling.
        resamples: Bootstrap resamples, and random sign flips.
    """
    differences = [row for row, _ in rows]
    intervals = mean_intervals(differences, seed=seed, resamples=resamples)
    p_values = _sign_flip_ps(differences, seed, resamples)
    return [
        Comparison(interval, p, _win_rate(row if higher else -row), _detectable(row))
        for interval, p, (row, higher) in zip(intervals, p_values, rows, strict=True)
    ]


def _sign_flip_ps(rows: Sequence[ArrayLike], seed: int, resamples: int) -> list[float]:
    """Two-sided permutation p for each row of differences: each could as well have had the other sign.

    Exact over all signs for up to `EXACT_PROMPTS` prompts, else Monte Carlo, where the observed signs count
    as one more flip, so that p is never 0 (Phipson and Smyth 2010, "Permutation P-values Should Never Be
    Zero"). Rows of equal length share their signs. NaN for a row without differences.
    """
    p_values: dict[int, float] = {}
    for n, indices, table in _by_length(rows):
        # Sums of the same numbers in another order differ in their last bits; those are ties.
        observed = [abs(math.fsum(d)) - 1e-12 * math.fsum(np.abs(d)) for d in table.T]
        extreme, flips = np.zeros(len(indices), dtype=np.int64), 0
        for signs in _signs(n, seed, resamples):
            extreme += np.sum(np.abs(signs @ table) >= observed, axis=0)
            flips += len(signs)
        exact = n <= EXACT_PROMPTS
        for index, count in zip(indices, extreme.tolist(), strict=True):
            p = count / flips if exact else (1 + count) / (1 + flips)
            p_values[index] = p if n else math.nan
    return [p_values[index] for index in range(len(rows))]


def _detectable(differences: Values) -> float:
    """Smallest true difference that a share `POWER` of such experiments would detect at `LEVEL`.

    The sum of the two Student's t quantiles, in standard errors (Cohen 1988, "Statistical Power Analysis",
    chapter 2). NaN below two prompts.
    """
    n = len(differences)
    if n < 2:
        return math.nan
    reach = _student_t(n - 1) + _student_t(n - 1, POWER)
    return float(reach * differences.std(ddof=1) / math.sqrt(n))


def _win_rate(differences: Values) -> float:
    """Share of positive differences, zeros counting as a half; NaN for none."""
    return float(np.mean(np.sign(differences) + 1) / 2) if len(differences) else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment for testing all `p_values`; NaN stays NaN and does not count."""
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    running = 0.0
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[i] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) adjustment: among results with q below x, a share of about x is false.

    NaN stays NaN and does not count.
    """
    from scipy.stats import false_discovery_control

    adjusted = np.array(p_values, dtype=np.float64)
    known = ~np.isnan(adjusted)
    adjusted[known] = false_discovery_control(adjusted[known])  # it refuses NaN
    return [float(q) for q in adjusted]


def _by_length(rows: Sequence[ArrayLike]) -> Iterator[tuple[int, list[int], Values]]:
    """Stack rows of equal length N as the columns of tables (N, K), K up to `COLUMNS`, with their indices."""
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(arrays):
        by_length.setdefault(len(row), []).append(index)
    for n, indices in by_length.items():
        for start in range(0, len(indices), COLUMNS):
            part = indices[start : start + COLUMNS]
            yield n, part, np.stack([arrays[index] for index in part], axis=1)


def _tails(table: Values, seed: int, resamples: int) -> list[tuple[float, float]]:
    """Quantiles of the studentised mean of each column (N, K), over resampled prompts."""
    n, count = table.shape
    if n < BOOTSTRAP_PROMPTS or not count:
        return [(math.inf, math.inf)] * count
    # A resample enters only by how often it has each prompt, so that sums and sums of squares of all
    # resamples and columns are one matrix product.
    centred = table - table.mean(axis=0)
    moments = np.concatenate([centred, centred**2], axis=1)
    studentised = np.empty((count, resamples), dtype=np.float32)
    counts = _resample_counts(n, seed, resamples)
    for start, stop in _chunks(resamples, n):
        both = counts[start:stop].astype(np.float64) @ moments
        studentised[:, start:stop] = _studentised(both[:, :count], both[:, count:], n).T
    ends = [round((resamples - 1) * tail) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    studentised.partition(ends, axis=1)
    return [(float(low), float(high)) for low, high in studentised[:, ends]]


def _studentised(sums: Values, squares: Values, n: int) -> Values:
    """Means divided by their standard errors; infinite where all resampled values are equal."""
    variances = squares - sums**2 / n
    # Of equal values only rounding errors remain, far below the smallest real spread of centred values.
    variances[variances <= 1e-12 * squares] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        result = sums / np.sqrt(variances * (n / (n - 1)))
    result[sums == 0] = 0.0
    return result


def _signs(n: int, seed: int, resamples: int) -> Iterator[Values]:
    """Chunks of rows of signs (R, N), -1 or 1: all 2^N for few prompts, else `resamples` random rows."""
    if n <= EXACT_PROMPTS:
        yield (np.arange(1 << n)[:, None] >> np.arange(n) & 1) * np.float64(2) - 1
        return
    generator = np.random.default_rng(seed)
    for start, stop in _chunks(resamples, n):
        flips = generator.integers(0, 256, (stop - start, -(-n // 8)), dtype=np.uint8)
        yield np.unpackbits(flips, axis=1)[:, :n] * np.float64(2) - 1


@lru_cache(maxsize=16)
def _resample_counts(n: int, seed: int, resamples: int) -> NDArray[np.uint8]:
    """How often each of `n` prompts is in each resample, shape (resamples, n). Cached: a board has many rows
    of the same length.
    """
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, n), dtype=np.uint8)
    for start, stop in _chunks(resamples, n):
        prompts = generator.integers(0, n, (stop - start, n)) + n * np.arange(stop - start)[:, None]
        counts[start:stop] = np.bincount(prompts.ravel(), minlength=prompts.size).reshape(prompts.shape)
    return counts


@lru_cache(maxsize=256)
def _student_t(freedom: int, below: float = (1 + LEVEL) / 2) -> float:
    """Quantile of Student's t; by default the one with half of 1 - LEVEL above it."""
    from scipy.stats import t

    return float(t.ppf(below, freedom))


def _chunks(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges that split `rows` rows of `width` values into chunks of at most `CHUNK` values."""
    return pairwise([*range(0, rows, max(1, CHUNK // width)), rows])
