"""The HPSv2 benchmark's own statistics, against an example computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leaderboards.board import Stamp
from leaderboards.builder import build
from leaderboards.markdown import markdown
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState

HPS = ScoreSet("hpsv2", "b" * 12, higher_is_better=True, role="trainable", family="clip")


def test_board_has_official_statistics_of_complete_runs_only(make_run: Callable[..., RunState]) -> None:
    styles = ("anime", "photo")  # alternating, so that the prompts of a style are not consecutive
    values = [[0.25 if n % 2 == 0 else (0.2 if n < 800 else 0.4)] for n in range(1600)]
    run = make_run("base", (HPS, values), suite="hpsv2", categories=styles)
    (section,) = build([run], "base").sections
    styles_of = section.official_hps["base", "hpsv2"]
    assert styles_of["anime"] == pytest.approx((0.25, 0.0))
    # Five groups of 0.2 and five of 0.4: deviation 0.1 with ddof 0 (with ddof 1 it would be 0.105).
    assert styles_of["photo"] == pytest.approx((0.3, 0.1))
    page = markdown(build([run], "base"), Stamp())
    assert "| base | hpsv2 | 0.2500 ± 0.0000 | 0.3000 ± 0.1000 | 0.2750 |" in page
    short = make_run("short", (HPS, [*values[:-1], [None]]), suite="hpsv2", categories=styles)
    assert not build([short], "short").sections[0].official_hps
