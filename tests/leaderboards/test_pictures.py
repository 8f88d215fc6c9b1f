"""Grids of images: what they show, and the same files each time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import Image

from leaderboards import pictures
from leaderboards.builder import build
from leaderboards.pictures import PROMPTS, _pixels, draw_differences, draw_samples, png
from leaderboards.run_state import RunState
from tests.leaderboards.conftest import BRIGHT

MakeRun = Callable[..., RunState]

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


def test_samples_leave_out_images_that_no_decoder_takes(
    runs: list[RunState], monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in runs[0].path.glob("images/*.png"):
        if file.name[:5] != "00004":
            Image.new("RGB", (99, 99)).save(file)
    # the error of an image with too many pixels is neither an OSError nor a ValueError
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16)
    figure = draw_samples(build(runs, "base"))
    assert figure is not None
    assert len([axis for axis in figure.subfigs[0].axes if axis.images]) == 2


def test_pictures_show_turned_photographs_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert _pixels(tmp_path / "a.jpg").size == (20, 30)


def test_no_picture_if_there_is_nothing_to_show(make_run: MakeRun) -> None:
    board = build([make_run("base", (BRIGHT, [[1.0], [2.0]]))], "base")
    assert draw_differences(board) is None
    assert draw_samples(board) is None


def test_characters_that_no_font_has_are_transliterated_visibly(make_run: MakeRun) -> None:
    prompts = ("猫 and a dog", "ねこ and 안녕", "a 🦩 in \ue000", "costs $5 and $6")
    kinds = {"images": True, "prompts": prompts}
    runs = [make_run(name, (BRIGHT, [[i % 3] for i in range(4)]), **kinds) for name in ("base", "新しい")]
    with no_other_fonts():
        figure = draw_samples(build(runs, "base"))
        assert figure is not None
        shown = " ".join(" ".join(texts(figure)).split())
    for text in ("[U+732B] and a dog", "[neko] and [annyeong]", "a [flamingo] in [U+E000]", "[U+65B0 si i]"):
        assert text in shown
    assert "costs $5 and $6" in shown
    assert "□" not in shown


def test_a_font_that_has_the_characters_is_used_where_there_is_one() -> None:
    character = "\u2312"  # not in DejaVu Sans; in other fonts of matplotlib
    assert pictures._caption(f"an {character}") == f"an {character}"
    first, other = pictures._text_style([character])["fontfamily"]
    assert first == "DejaVu Sans" != other
    with no_other_fonts():
        assert pictures._caption(f"an {character}") == "an [arc]"


def test_names_keep_their_end(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    prompt = "a photograph of a red cube on a long wooden table beside a blue sphere and a green cone"
    rows = [(f"{prompt} [{steps} tuned steps]", [image]) for steps in (5, 15)]
    shown = texts(pictures.image_table(rows, ["1"]))
    for steps in (5, 15):
        assert any(text.replace("\n", " ").endswith(f"[{steps} tuned steps]") for text in shown)


def test_a_constant_zero_has_no_scale_of_rounding_errors(make_run: MakeRun) -> None:
    runs = [
        make_run("base", (BRIGHT, [[1e-17 * (i % 3)] for i in range(20)])),
        make_run("new", (BRIGHT, [[1e-17 * (i % 5)] for i in range(20)])),
    ]
    figure = draw_differences(build(runs, "base"))
    assert figure is not None
    low, high = figure.subfigs[0].axes[0].get_xlim()
    assert (low, high) == (-1, 1)


@contextmanager
def no_other_fonts() -> Iterator[None]:
    """Hide all fonts but the default one."""
    from matplotlib.font_manager import fontManager

    default = [font for font in fontManager.ttflist if font.name == "DejaVu Sans"]
    caches = pictures._family, pictures._regular_fonts
    for cached in caches:
        cached.cache_clear()
    with patch.object(fontManager, "ttflist", default):
        yield
    for cached in caches:
        cached.cache_clear()
