"""The forest plot: panels by group, methods as rows, one legend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from leaderboards.builder import build
from leaderboards.pictures import draw_differences
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from tests.leaderboards.conftest import BLUR, BRIGHT

MakeRun = Callable[..., RunState]

SHARP = ScoreSet("sharp", "d" * 12, higher_is_better=True, role="trainable", family="toy")


@pytest.fixture
def runs(make_run: MakeRun) -> list[RunState]:
    """A baseline, and a method with three training seeds that is trained on two rewards."""
    level = np.random.default_rng(0).normal(size=(120, 1))
    noise = 0.1 * np.random.default_rng(1).normal(size=(120, 1))
    details = {"trained_on": ["bright", "sharp"], "method": "ours"}
    rewards = (BRIGHT, SHARP, BLUR)
    return [
        make_run("base", *((reward, level.tolist()) for reward in rewards)),
        *(
            make_run(
                f"seed-{seed}",
                *((reward, (level + noise + 0.2 * (seed + 1)).tolist()) for reward in rewards),
                details=details,
            )
            for seed in range(3)
        ),
    ]


def test_panels_are_grouped_and_seeds_share_a_row(runs: list[RunState]) -> None:
    figure = draw_differences(build(runs, "base"))
    assert figure is not None
    trained, judges, _legend = figure.subfigs
    assert "Rewards trained on, difference to base" in trained.get_suptitle()
    assert "Judges, difference to base" in judges.get_suptitle()
    titles = [axis.get_title() for axis in trained.axes if axis.get_title()]
    assert titles == ["mean gain (standard deviations)", "bright ↑", "sharp ↑"]
    assert [axis.get_title() for axis in judges.axes if axis.get_title()] == ["blur ↓"]
    panel = judges.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["2. ours"]
    ticks = next(line for line in panel.lines if line.get_marker() == "|")
    assert len(ticks.get_xdata()) == 3


def test_one_legend_names_what_the_panels_show(runs: list[RunState]) -> None:
    figure = draw_differences(build(runs, "base"))
    assert figure is not None
    (legend,) = [legend for part in figure.subfigs for legend in part.legends]
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["better", "worse", "trained on this reward", "one training seed"]


def test_missing_scores_are_marked_at_the_point_and_at_the_name(make_run: MakeRun) -> None:
    values: list[list[float | None]] = [[float(i % 7)] for i in range(40)]
    holes = [[None] if i < 16 else row for i, row in enumerate(values)]
    figure = draw_differences(
        build([make_run("base", (BLUR, values)), make_run("new", (BLUR, holes))], "base")
    )
    assert figure is not None
    panel = figure.subfigs[0].axes[0]
    assert [text.get_text() for text in panel.texts] == ["n = 24 of 40"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["new [incomplete]"]


def test_only_missing_scores_mark_a_name_as_incomplete(make_run: MakeRun) -> None:
    values = [[float(i % 7)] for i in range(40)]
    runs = make_run("base", (BLUR, values)), make_run("new", (BLUR, values), watermarks=("incomplete set",))
    figure = draw_differences(build(runs, "base"))
    assert figure is not None
    assert [label.get_text() for label in figure.subfigs[0].axes[0].get_yticklabels()] == ["new"]
