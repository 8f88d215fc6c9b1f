"""Grids of images: what they show, and the same files each time."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from leaderboards.builder import build
from leaderboards.pictures import PROMPTS, draw_differences, draw_samples, png
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState

MakeRun = Callable[..., RunState]

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")
AWKWARD = ("a sign that says $5 or \\frac", "猫 and a dog", "a very " + "long " * 40 + "prompt")


@pytest.fixture
def runs(make_run: MakeRun) -> list[RunState]:
    kinds = {"images": True, "categories": ("a", "a", "b"), "prompts": AWKWARD}
    return [
        make_run("base", (BRIGHT, [[i % 3, i % 5] for i in range(9)]), **kinds),
        make_run("new", (BRIGHT, [[i % 4 + 1, i % 2] for i in range(9)]), **kinds),
    ]


def texts(figure) -> list[str]:
    axes = [axis for part in figure.subfigs for axis in part.axes]
    return [text.get_text() for axis in axes for text in (axis.title, *axis.texts, *axis.get_yticklabels())]


def test_samples_are_the_same_prompts_with_categories_in_turn(runs: list[RunState]) -> None:
    figure = draw_samples(build(runs, "base"))
    assert figure is not None
    (part,) = figure.subfigs
    reds = [int(axis.images[0].get_array()[0, 0, 0]) for axis in part.axes]
    assert reds == [40 * prompt % 256 for prompt in (0, 2, 1, 5, 3, 8)] * 2  # prompts 2, 5 and 8 are of b
    assert {"base", "new"} <= set(texts(figure))


def test_same_board_gives_the_same_picture_files(runs: list[RunState]) -> None:
    board = build(runs, "base")
    for draw in (draw_differences, draw_samples):
        first, second = draw(board), draw(board)
        assert first is not None
        assert second is not None
        content = png(first)
        assert content == png(second)
        assert Image.open(io.BytesIO(content)).width > 500


def test_samples_leave_out_prompts_without_all_images(runs: list[RunState]) -> None:
    for file in runs[0].path.glob("images/*.png"):
        if file.name[:5] != "00004":
            file.unlink()
    figure = draw_samples(build(runs, "base"))
    assert figure is not None
    assert len([axis for axis in figure.subfigs[0].axes if axis.images]) == 2
    assert len(figure.subfigs[0].axes) == 2 * PROMPTS


def test_no_picture_if_there_is_nothing_to_show(make_run: MakeRun) -> None:
    board = build([make_run("base", (BRIGHT, [[1.0], [2.0]]))], "base")
    assert draw_differences(board) is None
    assert draw_samples(board) is None
