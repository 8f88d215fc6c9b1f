"""Statistics: estimates, coverage of intervals, and results where there is little data."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from leaderboards import stats
from leaderboards.stats import (
    Comparison,
    Estimate,
    benjamini_hochberg,
    comparisons,
    holm,
    mean_intervals,
    per_prompt,
)


def mean_interval(values, **options: int) -> Estimate:
    """The mean and the interval of one row."""
    (estimate,) = mean_intervals([values], **options)
    return estimate


def compare(differences, *, higher_is_better: bool = True, **options: int) -> Comparison:
    """Compare by one row of differences."""
    return comparisons([(np.asarray(differences, dtype=np.float64), higher_is_better)], **options)[0]


def sign_flip_p(differences, **options: int) -> float:
    return compare(differences, **options).p


def coverage(sample, n: int, repetitions: int = 400) -> float:
    """Share of intervals that contain the true mean 0 of values sampled by `sample(generator, n)`."""
    generator = np.random.default_rng(11)
    estimates = [mean_interval(sample(generator, n), seed=i, resamples=999) for i in range(repetitions)]
    return float(np.mean([e.low <= 0 <= e.high for e in estimates]))


def test_images_of_a_prompt_are_averaged() -> None:
    prompts, means = per_prompt([4, 2, 4, 4, 9], [1.0, 5.0, 2.0, 6.0, math.nan])
    assert prompts.tolist() == [2, 4]
    assert means.tolist() == [5.0, 3.0]


def test_intervals_cover_on_skewed_differences() -> None:
    # A normal or percentile interval covers 0.88 here.
    assert 0.92 <= coverage(lambda g, n: g.exponential(size=n) - 1, n=20) <= 0.98


def test_intervals_cover_on_binary_scores() -> None:
    assert 0.92 <= coverage(lambda g, n: g.binomial(1, 0.3, n) - 0.3, n=40) <= 0.99


def test_intervals_cover_with_several_images_per_prompt() -> None:
    def prompts(generator, n: int):
        samples = generator.normal(size=(n, 1)) + 0.5 * generator.normal(size=(n, 4))
        return per_prompt(np.repeat(np.arange(n), 4), samples.ravel())[1]

    def images_as_units(generator, n: int):
        return (generator.normal(size=(n // 4, 1)) + 0.5 * generator.normal(size=(n // 4, 4))).ravel()

    assert 0.92 <= coverage(prompts, n=25) <= 0.98
    assert coverage(images_as_units, n=100) < 0.8  # treating images as independent covers too little


def test_interval_is_reproducible_and_as_skewed_as_the_data() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    estimate = mean_interval(values)
    assert estimate == mean_interval(values)
    assert estimate.method == "bootstrap-t"
    assert estimate.high - estimate.value > 1.1 * (estimate.value - estimate.low)
    assert estimate.value == pytest.approx(values.mean())


def test_interval_agrees_with_student_on_normal_data() -> None:
    values = np.random.default_rng(0).normal(size=400)
    reach = 1.966 * values.std(ddof=1) / 20
    assert mean_interval(values).half_width == pytest.approx(reach, rel=0.05)


def test_interval_scales_and_shifts_with_the_values() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    plain, moved = mean_interval(values), mean_interval(100 * values + 5)
    assert (moved.low, moved.high) == pytest.approx((100 * plain.low + 5, 100 * plain.high + 5))


def test_few_prompts_have_student_t_interval() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0])
    assert estimate.method == "t"
    assert (estimate.low, estimate.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_one_win_among_ties_has_student_t_interval() -> None:
    # More than one resample in three holds ties only: its standard error is zero.
    estimate = mean_interval([1.0] + [0.0] * 99)
    assert estimate.method == "t"
    assert estimate.low < 0 < estimate.high


@pytest.mark.parametrize("n", [2, 5, 200])
def test_equal_values_have_method_constant(n: int) -> None:
    estimate = mean_interval([0.1] * n)
    assert (estimate.value, estimate.low, estimate.high, estimate.method) == (0.1, 0.1, 0.1, "constant")


def test_one_prompt_has_no_interval_and_no_prompt_has_no_mean() -> None:
    one, none = mean_interval([0.5]), mean_interval([])
    assert (one.value, one.n, one.method) == (0.5, 1, "none")
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert (none.n, none.method) == (0, "none")
    assert math.isnan(none.value)


@given(st.lists(st.floats(-3, 3).map(lambda x: round(x, 2)), min_size=1, max_size=7))
def test_sign_flip_of_few_prompts_enumerates_all_signs(differences: list[float]) -> None:
    observed = abs(sum(differences)) - 1e-9
    flips = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed
             for signs in product((-1, 1), repeat=len(differences))]  # fmt: skip
    assert sign_flip_p(differences) == pytest.approx(np.mean(flips))


def test_exact_p_is_that_of_scipy() -> None:
    differences = np.random.default_rng(7).normal(0.5, 1, size=9)
    reference = permutation_test((differences, np.zeros(9)), lambda a, b: np.mean(a - b), vectorized=False,
                                 permutation_type="samples", n_resamples=math.inf)  # fmt: skip
    assert sign_flip_p(differences) == pytest.approx(reference.pvalue)


def test_random_sign_flips_agree_with_all_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, size=14)
    exact = sign_flip_p(differences)
    monkeypatch.setattr(stats, "EXACT_PROMPTS", 0)
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.015)
    monkeypatch.setattr(stats, "CHUNK", 100)
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.015)


def test_p_is_uniform_without_a_difference_and_never_zero() -> None:
    generator = np.random.default_rng(5)
    p = [sign_flip_p(generator.normal(size=30), seed=i, resamples=499) for i in range(300)]
    assert 0.02 <= np.mean(np.asarray(p) < 0.05) <= 0.08
    assert sign_flip_p(np.full(100, 1.0)) == pytest.approx(1 / (1 + stats.RESAMPLES))


def test_p_is_one_without_evidence_and_nan_without_data() -> None:
    assert sign_flip_p([0.0] * 50) == 1.0
    assert sign_flip_p([3.0]) == 1.0
    assert math.isnan(sign_flip_p([]))


def test_win_rate_counts_ties_as_half() -> None:
    assert compare([2.0, -1.0, 0.0, 0.0, 1.0]).win_rate == 0.6
    assert math.isnan(compare([]).win_rate)


def test_win_rate_respects_the_better_direction() -> None:
    higher = compare([1.0, 0.0, 2.0])
    lower = compare([1.0, 0.0, 2.0], higher_is_better=False)
    assert higher.difference == lower.difference
    assert higher.difference.value == 1.0
    assert (higher.win_rate, lower.win_rate) == pytest.approx((5 / 6, 1 / 6))


def test_holm_steps_down() -> None:
    # The example: sorted .01, .02, .03, .04 times 4, 3, 2, 1, never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_holm_ignores_nan() -> None:
    first, second = holm([math.nan, 0.03])
    assert math.isnan(first)
    assert second == 0.03
    assert holm([]) == []


def test_benjamini_hochberg_steps_up() -> None:
    # Sorted .01, .02, .03, .5 times 4/1, 4/2, 4/3, 4/4, never rising from the right.
    assert benjamini_hochberg([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.04, 0.04])


def test_benjamini_hochberg_ignores_nan() -> None:
    first, second, third = benjamini_hochberg([math.nan, 0.03, 0.5])
    assert math.isnan(first)
    assert (second, third) == (0.06, 0.5)
    assert all(math.isnan(q) for q in benjamini_hochberg([math.nan, math.nan]))
    assert benjamini_hochberg([]) == []


def test_detectable_difference_is_detected_in_most_experiments() -> None:
    generator = np.random.default_rng(2)
    smallest = compare(generator.normal(size=200)).detectable
    detected = [
        mean_interval(generator.normal(smallest, 1, 200), seed=i, resamples=499).low > 0 for i in range(300)
    ]
    assert 0.72 <= np.mean(detected) <= 0.88
    assert math.isnan(compare([1.0]).detectable)


def test_rows_together_give_the_results_of_each_alone() -> None:
    generator = np.random.default_rng(4)
    rows = [generator.gamma(2, size=n) - 1 for n in (40, 12, 40, 3, 1, 0, 40)] + [np.ones(40)]
    alone = [mean_interval(row) for row in rows]
    for together, one in zip(mean_intervals(rows), alone, strict=True):
        assert (together.n, together.method) == (one.n, one.method)
        ends = together.value, together.low, together.high
        assert ends == pytest.approx((one.value, one.low, one.high), nan_ok=True)
    together_p = [comparison.p for comparison in comparisons([(row, True) for row in rows])]
    assert together_p == pytest.approx([sign_flip_p(row) for row in rows], nan_ok=True)
