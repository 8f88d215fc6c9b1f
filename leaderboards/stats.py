"""Statistics of a leaderboard: pure functions from per-prompt values to estimates.

The unit is the prompt. A prompt's seeds share its difficulty, so they are averaged first (`per_prompt`) and
only prompts are resampled; that is the cluster bootstrap with prompts as clusters, each weighing the same.
Intervals are studentised (bootstrap-t: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter
12), because rewards are skewed and percentile or BCa intervals cover too little then; and at neither end
narrower than Student's, because the bootstrap covers too little where nearly all prompts tie
(docs/statistics.md). Everything random is seeded: a number does not depend on what else stands on the board.

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
POWER = 0.8
RESAMPLES = 9999
EXPLORING = 1999
"""Resamples of what claims nothing, such as categories."""

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

COLUMNS = 512
"""How many rows of equal length are resampled together."""

Method = Literal["bootstrap-t", "t", "constant", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` prompts with its interval at `LEVEL`.

    `method` says where the interval comes from: "bootstrap-t" (of it and Student's, at each end the wider),
    "t" (Student's, where the bootstrap degenerates), "constant" (all values are equal: an interval without
    width, which is no evidence of precision), or "none" (fewer than two prompts: NaN ends).
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
    detectable: float
    """The least true difference that as many such prompts would show in `POWER` of experiments."""


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
    return mean_intervals([values], seed=seed, resamples=resamples)[0]


def mean_intervals(
    rows: Sequence[ArrayLike], *, seed: int = SEED, resamples: int = RESAMPLES
) -> list[Estimate]:
    """`mean_interval` of each of many rows; those of equal length share their resamples, which is fast."""
    found: dict[int, Estimate] = {}
    for n, places, table in _by_length(rows):
        spread = np.ptp(table, axis=0) > 0 if n else np.zeros(len(places), dtype=bool)
        means = [math.fsum(table[:, k]) / n if n else math.nan for k in range(len(places))]
        wide = np.flatnonzero(spread)
        tails = _tails(table[:, wide], seed, resamples)
        ends = dict(zip(wide.tolist(), tails, strict=True))
        for k, place in enumerate(places):
            found[place] = _estimate(means[k], table[:, k], ends.get(k))
    return [found[place] for place in range(len(rows))]


def _estimate(mean: float, x: Values, tails: tuple[float, float] | None) -> Estimate:
    """With quantiles of the studentised mean, which are infinite where the bootstrap degenerates."""
    n = len(x)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n, "none")
    if tails is None:
        return Estimate(mean, mean, mean, n, "constant")
    error = float(x.std(ddof=1)) / math.sqrt(n)
    low_t, high_t = tails
    reach = _student_t(n - 1)
    method: Method = "t"
    if n >= BOOTSTRAP_PROMPTS and math.isfinite(low_t) and math.isfinite(high_t):
        low_t, high_t, method = min(low_t, -reach), max(high_t, reach), "bootstrap-t"
    else:
        low_t, high_t = -reach, reach
    return Estimate(mean, mean - high_t * error, mean - low_t * error, n, method)


def compare(
    system: ArrayLike, baseline: ArrayLike, *, higher_is_better: bool = True, seed: int = SEED
) -> Comparison:
    """Compare paired values, both (N,): entry i of both belongs to the same prompt."""
    a, b = np.asarray(system, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values have shapes {a.shape} and {b.shape}; expected one of each a prompt")
    return comparisons([(a - b, higher_is_better)], seed=seed)[0]


def comparisons(
    rows: Sequence[tuple[Values, bool]], *, seed: int = SEED, resamples: int = RESAMPLES
) -> list[Comparison]:
    """Compare by (paired differences, whether higher is better): system minus baseline (N,), one a prompt."""
    differences = [row for row, _ in rows]
    intervals = mean_intervals(differences, seed=seed, resamples=resamples)
    p_values = sign_flip_ps(differences, seed=seed, resamples=resamples)
    return [
        Comparison(interval, p, win_rate(row if higher else -row), detectable(row))
        for interval, p, (row, higher) in zip(intervals, p_values, rows, strict=True)
    ]


def sign_flip_p(differences: ArrayLike, *, seed: int = SEED, resamples: int = RESAMPLES) -> float:
    """Two-sided permutation p of "each difference could as well have had the other sign", on the mean.

    Exact over all signs for up to `EXACT_PROMPTS` prompts, else Monte Carlo, where the observed signs count
    as one draw so that p is never 0 (Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero").
    NaN for no differences.
    """
    return sign_flip_ps([differences], seed=seed, resamples=resamples)[0]


def sign_flip_ps(rows: Sequence[ArrayLike], *, seed: int = SEED, resamples: int = RESAMPLES) -> list[float]:
    """`sign_flip_p` of each of many rows; those of equal length share their signs."""
    found: dict[int, float] = {}
    for n, places, table in _by_length(rows):
        # Sums of the same numbers in another order differ in the last bits; those are ties.
        observed = [abs(math.fsum(d)) - 1e-12 * math.fsum(np.abs(d)) for d in table.T]
        extreme, draws = np.zeros(len(places), dtype=np.int64), 0
        for signs in _signs(n, seed, resamples):
            extreme += np.sum(np.abs(signs @ table) >= observed, axis=0)
            draws += len(signs)
        exact = n <= EXACT_PROMPTS
        for place, count in zip(places, extreme.tolist(), strict=True):
            p = count / draws if exact else (1 + count) / (1 + draws)
            found[place] = p if n else math.nan
    return [found[place] for place in range(len(rows))]


def detectable(differences: ArrayLike) -> float:
    """The least true difference that `POWER` of such experiments would find at `LEVEL`.

    That many standard errors: Student's t of both added (Cohen 1988, "Statistical Power Analysis", chapter
    2). NaN below two prompts.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return math.nan
    reach = _student_t(len(d) - 1) + _student_t(len(d) - 1, POWER)
    return float(reach * d.std(ddof=1) / math.sqrt(len(d)))


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


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) step-up adjustment: of what is below q, about a share q is false.

    NaN stays and does not count.
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted(((p, i) for i, p in enumerate(p_values) if not math.isnan(p)), reverse=True)
    running = 1.0
    for above, (p, i) in enumerate(order):
        running = min(running, p * len(order) / (len(order) - above))
        adjusted[i] = running
    return adjusted


def separated_ranks(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """The place of each interval (low, high), higher being better: 1 + how many lie wholly above it."""
    lows = np.sort(np.array([low for low, _ in intervals], dtype=np.float64))
    return [1 + len(lows) - int(np.searchsorted(lows, high, side="right")) for _, high in intervals]


def _by_length(rows: Sequence[ArrayLike]) -> Iterator[tuple[int, list[int], Values]]:
    """Rows of equal length N as columns of tables (N, K), none wider than `COLUMNS`, with their places."""
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    places: dict[int, list[int]] = {}
    for place, row in enumerate(arrays):
        places.setdefault(len(row), []).append(place)
    for n, found in places.items():
        for start in range(0, len(found), COLUMNS):
            part = found[start : start + COLUMNS]
            yield n, part, np.stack([arrays[place] for place in part], axis=1)


def _tails(table: Values, seed: int, resamples: int) -> list[tuple[float, float]]:
    """The quantiles of each column's studentised mean (N, K) over resampled prompts."""
    n, count = table.shape
    if n < BOOTSTRAP_PROMPTS or not count:
        return [(math.inf, math.inf)] * count
    centred = table - table.mean(axis=0)
    moments = np.concatenate([centred, centred**2], axis=1)
    found = np.empty((count, resamples), dtype=np.float32)
    draws = _draws(n, seed, resamples)
    for start, stop in _chunks(resamples, n):
        both = draws[start:stop].astype(np.float64) @ moments
        found[:, start:stop] = _studentised(both[:, :count], both[:, count:], n).T
    places = [round((resamples - 1) * tail) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    found.partition(places, axis=1)
    return [(float(low), float(high)) for low, high in found[:, places]]


def _studentised(sums: Values, squares: Values, n: int) -> Values:
    """Means by their standard errors; infinite where all drawn values are equal."""
    variances = squares - sums**2 / n
    # Of equal values only rounding is left, far below the smallest real spread of centred values.
    variances[variances <= 1e-12 * squares] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        found = sums / np.sqrt(variances * (n / (n - 1)))
    found[sums == 0] = 0.0
    return found


def _signs(n: int, seed: int, resamples: int) -> Iterator[Values]:
    """Rows of signs (R, N), -1 or 1: all there are for a few prompts, else `resamples` draws, by and by."""
    if n <= EXACT_PROMPTS:
        yield (np.arange(1 << n)[:, None] >> np.arange(n) & 1) * np.float64(2) - 1
        return
    generator = np.random.default_rng(seed)
    for start, stop in _chunks(resamples, n):
        draws = generator.integers(0, 256, (stop - start, -(-n // 8)), dtype=np.uint8)
        yield np.unpackbits(draws, axis=1)[:, :n] * np.float64(2) - 1


@lru_cache(maxsize=16)
def _draws(n: int, seed: int, resamples: int) -> NDArray[np.uint8]:
    """How often each of `n` prompts is drawn in each resample, (resamples, n). Kept: a board asks often."""
    generator = np.random.default_rng(seed)
    found = np.empty((resamples, n), dtype=np.uint8)
    for start, stop in _chunks(resamples, n):
        drawn = generator.integers(0, n, (stop - start, n)) + n * np.arange(stop - start)[:, None]
        found[start:stop] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return found


@lru_cache(maxsize=256)
def _student_t(freedom: int, below: float = (1 + LEVEL) / 2) -> float:
    """The quantile of Student's t; by default the one that leaves half of 1 - LEVEL above it."""
    from scipy.stats import t

    return float(t.ppf(below, freedom))


def _chunks(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of `rows` rows of `width` values, none above `CHUNK` values (but at least one row)."""
    return pairwise([*range(0, rows, max(1, CHUNK // width)), rows])
