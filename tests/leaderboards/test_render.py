"""Rows of text: the opening table, scores, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from leaderboards.builder import build
from leaderboards.render import comparison_rows, interval, number, score_rows, standing_rows
from leaderboards.run_state import RunState
from leaderboards.stats import Estimate
from tests.leaderboards.conftest import BRIGHT

MakeRun = Callable[..., RunState]


def test_score_rows_mark_gains_exposure_and_watermarks(runs: list[RunState]) -> None:
    (section,) = build(runs, "base").sections
    base, new = score_rows(section)
    assert base["system"] == "base (baseline)"
    assert new["bright ↑"].endswith("▲")
    assert "†" in new["bright ↑"]
    assert "(+1.0" in new["bright ↑"]
    assert new["blur ↓"] == "–"
    assert new["notes"] == "limit 120 of 800; incomplete: not scored by all judges"


def test_scores_have_the_digits_of_their_own_interval(make_run: MakeRun) -> None:
    narrow = [[10 + 0.001 * math.sin(i)] for i in range(40)]
    wide = [[10 + 5 * math.sin(i * i)] for i in range(40)]
    (section,) = build([make_run("base", (BRIGHT, narrow)), make_run("new", (BRIGHT, wide))], "base").sections
    numbers = {row["system"]: row["bright ↑"].split()[0] for row in score_rows(section)}
    assert numbers == {"base (baseline)": "10.00003", "new": "9.5"}


def test_the_number_of_prompts_is_no_number_of_images(make_run: MakeRun) -> None:
    values = [[float(i), float(i + 1)] for i in range(40)]
    holes = [[0.0, None], *values[1:]], [[None, None], *values[1:]]
    runs = (
        make_run("base", (BRIGHT, values)),
        *(make_run(name, (BRIGHT, rows)) for name, rows in zip(("image", "prompt"), holes, strict=True)),
    )
    (section,) = build(runs, "base").sections
    prompts = {row["system"]: row["prompts"] for row in comparison_rows(section)}
    assert prompts == {"base": "40", "image": "40", "prompt": "39 of 40"}


def test_opening_table_has_six_columns_and_methods_by_name(runs: list[RunState]) -> None:
    (section,) = build(runs, "base").sections
    table = standing_rows(section)
    assert [list(row) for row in table] == [
        ["rank", "system", "trained on", "held out", "judges", "verdict"]
    ] * len(table)
    by_system = {row["system"]: row for row in table}
    assert by_system["base"]["verdict"] == "baseline"
    assert by_system["ours"]["trained on"].startswith("+1.4")
    assert by_system["ours"]["judges"] == "–"
    assert "incomplete: not scored by all judges" in by_system["ours"]["verdict"]


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
def test_intervals_show_two_digits_of_their_half_width(estimate: Estimate, text: str) -> None:
    assert interval(estimate) == text


def test_differences_have_a_sign() -> None:
    estimate = Estimate(0.02, -0.01, 0.05, 50, "bootstrap-t")
    assert interval(estimate, sign=True) == "+0.020 [-0.010, +0.050]"
    assert number(0.0, None, sign=True) == "+0"
    assert number(-1.5, 0) == "-2"
