"""The HPSv2 benchmark's own arithmetic, against a case worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from leaderboards.formats import Stamp
from leaderboards.hpsv2 import group_statistics
from leaderboards.markdown import markdown
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from leaderboards.table import build

HPS = ScoreSet("hpsv2", "b" * 12, higher_is_better=True, role="trainable", family="clip")


def test_two_groups_by_hand() -> None:
    # Group means 0.2 and 0.3: mean 0.25, deviation with ddof 0 0.05 (with ddof 1 it would be 0.0707).
    assert group_statistics(np.array([0.1, 0.3] * 40 + [0.3] * 80)) == pytest.approx((0.25, 0.05))
    with pytest.raises(ValueError, match="79 scores; expected a multiple of 80"):
        group_statistics(np.zeros(79))


def test_a_board_shows_it_for_whole_runs_only(make_run: Callable[..., RunState]) -> None:
    styles = ("anime", "photo")  # prompts take turns, so that a style's are not consecutive
    values = [[0.25 if n % 2 == 0 else (0.2 if n < 800 else 0.4)] for n in range(1600)]
    run = make_run("base", (HPS, values), suite="hpsv2", categories=styles)
    (section,) = build([run], "base").sections
    (own,) = section.official_hps
    assert own.styles["anime"] == pytest.approx((0.25, 0.0))
    assert own.styles["photo"] == pytest.approx((0.3, 0.1))
    page = markdown(build([run], "base"), Stamp())
    assert "| base | hpsv2 | 0.2500 ± 0.0000 | 0.3000 ± 0.1000 | 0.2750 |" in page
    short = make_run("short", (HPS, [*values[:-1], [None]]), suite="hpsv2", categories=styles)
    assert not build([short], "short").sections[0].official_hps
