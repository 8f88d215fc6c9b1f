"""A board as rows for people."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from leaderboards.records import ScoreSet
from leaderboards.render import headline, interval, number, transposed
from leaderboards.run_state import RunState
from leaderboards.stats import Estimate
from leaderboards.table import build

MakeRun = Callable[..., RunState]

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")


def test_headline_marks_gains_exposure_and_watermarks(runs: list[RunState]) -> None:
    (section,) = build(runs, "base").sections
    base, new = headline(section)
    assert base["system"] == "base (baseline)"
    assert new["bright ↑"].endswith("▲")
    assert "†" in new["bright ↑"]
    assert "(+1.0" in new["bright ↑"]
    assert new["blur ↓"] == "–"
    assert new["notes"] == "limit 120 of 800"


def test_headline_shows_a_column_with_the_same_decimals(make_run: MakeRun) -> None:
    narrow = [[10 + 0.001 * math.sin(i)] for i in range(40)]
    wide = [[10 + 5 * math.sin(i * i)] for i in range(40)]
    (section,) = build([make_run("base", (BRIGHT, narrow)), make_run("new", (BRIGHT, wide))], "base").sections
    numbers = [row["bright ↑"].split()[0] for row in headline(section)]
    assert {len(text.partition(".")[2]) for text in numbers} == {5}


def test_headline_turned_has_a_column_a_system(runs: list[RunState]) -> None:
    (section,) = build(runs, "base").sections
    turned = transposed(headline(section))
    assert [row[""] for row in turned] == ["bright ↑", "blur ↓", "notes"]
    assert list(turned[0]) == ["", "base (baseline)", "new_1"]
    assert transposed([]) == []


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.27034, 0.26911, 0.27154, 900, "bootstrap-t"), "0.2703 [0.2691, 0.2715]"),
        (Estimate(20.466, 18.2, 22.1, 900, "bootstrap-t"), "20.5 [18.2, 22.1]"),
        (Estimate(1234.5, 1000.0, 1500.0, 900, "t"), "1234 [1000, 1500] *t*"),
        (Estimate(0.5, 0.5, 0.5, 900, "constant"), "0.5 [0.5, 0.5] *c*"),
        (Estimate(0.5, math.nan, math.nan, 1, "none"), "0.5"),
        (Estimate(math.nan, math.nan, math.nan, 0, "none"), "–"),
    ],
)
def test_intervals_show_the_digits_that_mean_something(estimate: Estimate, text: str) -> None:
    assert interval(estimate) == text


def test_differences_carry_their_sign() -> None:
    estimate = Estimate(0.02, -0.01, 0.05, 50, "bootstrap-t")
    assert interval(estimate, sign=True) == "+0.020 [-0.010, +0.050]"
    assert number(0.0, None, sign=True) == "+0"
    assert number(-1.5, 0) == "-2"
