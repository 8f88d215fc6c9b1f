"""Statistics: what is estimated, that intervals cover, and what happens where there is little data."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderboards import stats
from leaderboards.stats import (
    benjamini_hochberg,
    compare,
    detectable,
    holm,
    mean_interval,
    per_prompt,
    separated_ranks,
    sign_flip_p,
    win_rate,
)


def coverage(draw, n: int, repetitions: int = 400) -> float:
    """Share of intervals that hold the true mean 0 of values drawn by `draw(generator, n)`."""
    generator = np.random.default_rng(11)
    estimates = [mean_interval(draw(generator, n), seed=i, resamples=999) for i in range(repetitions)]
    return float(np.mean([e.low <= 0 <= e.high for e in estimates]))


def test_seeds_are_averaged_within_a_prompt_first() -> None:
    prompts, means = per_prompt([4, 2, 4, 4, 9], [1.0, 5.0, 2.0, 6.0, math.nan])
    assert prompts.tolist() == [2, 4]
    assert means.tolist() == [5.0, 3.0]


def test_intervals_cover_on_skewed_differences() -> None:
    # A normal or percentile interval covers 0.88 here.
    assert 0.92 <= coverage(lambda g, n: g.exponential(size=n) - 1, n=20) <= 0.98


def test_intervals_cover_on_few_answers_of_yes_or_no() -> None:
    assert 0.92 <= coverage(lambda g, n: g.binomial(1, 0.3, n) - 0.3, n=40) <= 0.99


def test_intervals_cover_with_seeds_nested_in_prompts() -> None:
    def draw(generator, n: int):
        samples = generator.normal(size=(n, 1)) + 0.5 * generator.normal(size=(n, 4))
        return per_prompt(np.repeat(np.arange(n), 4), samples.ravel())[1]

    def draw_samples_as_units(generator, n: int):
        return (generator.normal(size=(n // 4, 1)) + 0.5 * generator.normal(size=(n // 4, 4))).ravel()

    assert 0.92 <= coverage(draw, n=25) <= 0.98
    assert coverage(draw_samples_as_units, n=100) < 0.8  # the mistake that this test is there to catch


def test_interval_is_reproducible_and_skewed_with_the_data() -> None:
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


def test_scale_and_shift_carry_over() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    plain, moved = mean_interval(values), mean_interval(100 * values + 5)
    assert (moved.low, moved.high) == pytest.approx((100 * plain.low + 5, 100 * plain.high + 5))


def test_few_prompts_get_students_interval() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0])
    assert estimate.method == "t"
    assert (estimate.low, estimate.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_one_win_among_ties_gets_students_interval() -> None:
    # More than one resample in three holds ties only: its standard error is zero.
    estimate = mean_interval([1.0] + [0.0] * 99)
    assert estimate.method == "t"
    assert estimate.low < 0 < estimate.high


@pytest.mark.parametrize("n", [2, 5, 200])
def test_equal_values_are_called_constant(n: int) -> None:
    estimate = mean_interval([0.1] * n)
    assert (estimate.value, estimate.low, estimate.high, estimate.method) == (0.1, 0.1, 0.1, "constant")


def test_one_prompt_has_no_interval_and_none_has_nothing() -> None:
    one, none = mean_interval([0.5]), mean_interval([])
    assert (one.value, one.n, one.method) == (0.5, 1, "none")
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert (none.n, none.method) == (0, "none")
    assert math.isnan(none.value)


@given(st.lists(st.floats(-3, 3).map(lambda x: round(x, 2)), min_size=1, max_size=7))
def test_sign_flip_goes_through_all_signs(differences: list[float]) -> None:
    observed = abs(sum(differences)) - 1e-9
    flips = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed
             for signs in product((-1, 1), repeat=len(differences))]  # fmt: skip
    assert sign_flip_p(differences) == pytest.approx(np.mean(flips))


def test_sign_flip_by_draws_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, size=14)
    exact = sign_flip_p(differences)
    monkeypatch.setattr(stats, "EXACT_PROMPTS", 0)
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.015)
    monkeypatch.setattr(stats, "CHUNK", 100)
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.015)


def test_sign_flip_is_uniform_without_a_difference_and_never_zero() -> None:
    generator = np.random.default_rng(5)
    p = [sign_flip_p(generator.normal(size=30), seed=i, resamples=499) for i in range(300)]
    assert 0.02 <= np.mean(np.asarray(p) < 0.05) <= 0.08
    assert sign_flip_p(np.full(100, 1.0)) == pytest.approx(1 / (1 + stats.RESAMPLES))


def test_sign_flip_without_evidence() -> None:
    assert sign_flip_p([0.0] * 50) == 1.0
    assert sign_flip_p([3.0]) == 1.0
    assert math.isnan(sign_flip_p([]))


def test_win_rate_counts_ties_as_half() -> None:
    assert win_rate([2.0, -1.0, 0.0, 0.0, 1.0]) == 0.6
    assert math.isnan(win_rate([]))


def test_compare_wins_are_on_the_better_side() -> None:
    higher = compare([1.0, 2.0, 3.0], [0.0, 2.0, 1.0])
    lower = compare([1.0, 2.0, 3.0], [0.0, 2.0, 1.0], higher_is_better=False)
    assert higher.difference == lower.difference
    assert higher.difference.value == 1.0
    assert (higher.win_rate, lower.win_rate) == pytest.approx((5 / 6, 1 / 6))


def test_compare_refuses_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match="one of each a prompt"):
        compare([1.0, 2.0], [1.0])


def test_holm_steps_down() -> None:
    # The example: sorted .01, .02, .03, .04 times 4, 3, 2, 1, never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_holm_leaves_undefined_ones_out() -> None:
    first, second = holm([math.nan, 0.03])
    assert math.isnan(first)
    assert second == 0.03
    assert holm([]) == []


def test_benjamini_hochberg_steps_up() -> None:
    # Sorted .01, .02, .03, .5 times 4/1, 4/2, 4/3, 4/4, never rising from the right.
    assert benjamini_hochberg([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    first, second = benjamini_hochberg([math.nan, 0.03])
    assert math.isnan(first)
    assert second == 0.03


def test_ranks_count_who_lies_wholly_above() -> None:
    assert separated_ranks([(2.0, 3.0), (0.0, 1.0), (0.5, 2.0), (-5.0, -4.0)]) == [1, 2, 1, 4]
    assert separated_ranks([(0.0, 0.0), (0.0, 1.0)]) == [1, 1]


def test_the_detectable_difference_is_found_in_most_experiments() -> None:
    generator = np.random.default_rng(2)
    least = detectable(generator.normal(size=200))
    found = [
        mean_interval(generator.normal(least, 1, 200), seed=i, resamples=499).low > 0 for i in range(300)
    ]
    assert 0.72 <= np.mean(found) <= 0.88
    assert math.isnan(detectable([1.0]))


def test_many_rows_get_what_each_gets_alone() -> None:
    generator = np.random.default_rng(4)
    rows = [generator.gamma(2, size=n) - 1 for n in (40, 12, 40, 3, 1, 0, 40)] + [np.ones(40)]
    alone = [mean_interval(row) for row in rows]
    for together, one in zip(stats.mean_intervals(rows), alone, strict=True):
        assert (together.n, together.method) == (one.n, one.method)
        ends = together.value, together.low, together.high
        assert ends == pytest.approx((one.value, one.low, one.high), nan_ok=True)
    expected = [sign_flip_p(row) for row in rows]
    assert stats.sign_flip_ps(rows) == pytest.approx(expected, nan_ok=True)
