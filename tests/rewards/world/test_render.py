"""Renders: exact in a clean style, and what each axis of the style changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rewards.world.render import render, signed_distance
from rewards.world.scenes import (
    BACKGROUNDS,
    CLEAN,
    COLOURS,
    OFFSET_PX,
    POSITIONS,
    SHAPES,
    SIZES,
    Item,
    Scene,
    Style,
)
from tcbench.errors import UnknownName

MIDDLE = Item("square", "red", "medium", 32.0, 32.0, 14.5)


def of_one(item: Item, background: str = "white", style: Style = CLEAN) -> Scene:
    return Scene((item,), background, style)


def difference(scene: Scene) -> NDArray[np.float64]:
    """Distance of each pixel from the corner's colour, as a share of the greatest distance."""
    image = render(scene).astype(float)
    away = np.abs(image - image[0, 0]).max(axis=-1)
    share: NDArray[np.float64] = away / away.max()
    return share


def extent(scene: Scene) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of the object."""
    mask = difference(scene) > 0.5
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(columns[-1] + 1), float(rows[0]), float(rows[-1] + 1)


def moved(style: Style, background: str, item: Item = MIDDLE) -> NDArray[np.int_]:
    """Change of the mean level of each pixel from the clean style, (64, 64)."""
    images = [render(of_one(item, background, each)).astype(int) for each in (style, CLEAN)]
    change: NDArray[np.int_] = images[0].sum(axis=-1) - images[1].sum(axis=-1)
    return change


def test_the_same_scene_gives_the_same_image() -> None:
    scene = Scene.random(np.random.default_rng(0))
    first = render(scene)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, render(scene))


def test_an_edge_is_a_ramp_of_one_and_a_half_pixels() -> None:
    """The square's right edge is at 32 + 0.84 x 14.5 = 44.18, the centre of pixel 44 at 44.5."""
    row = render(of_one(MIDDLE))[32].astype(float)
    red, white = (255 * CLEAN.shown_colour("red"), 255 * CLEAN.shown_background("white")[0])
    for pixel, cover in ((42, 1.0), (43, 0.5 + 0.68 / 1.5), (44, 0.5 - 0.32 / 1.5), (45, 0.0)):
        np.testing.assert_allclose(row[pixel], cover * red + (1 - cover) * white, atol=0.51)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_anti_aliased(shape: str) -> None:
    away = difference(of_one(replace(MIDDLE, shape=shape)))
    assert ((away > 0.05) & (away < 0.95)).sum() > 20


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_has_the_position_and_size_of_its_scene(shape: str, size: str) -> None:
    middle, radius, step = 32.0, SIZES[size], OFFSET_PX[size]
    for position, (column, row) in POSITIONS.items():
        x, y = middle + step * column, middle + step * row
        item = Item(shape, "blue", size, x, y, radius, position)
        left, right, top, bottom = extent(of_one(item))
        assert (left + right) / 2 == pytest.approx(item.x, abs=1.1)
        assert (top + bottom) / 2 == pytest.approx(item.y, abs=2.6)  # stars and triangles reach further up
        assert np.sign(np.rint(((left + right) / 2 - 32) / 6)) == column
        assert np.sign(np.rint(((top + bottom) / 2 - 32) / 6)) == row
        assert 1.6 * item.radius - 2 < right - left < 2.2 * item.radius + 1


def test_shapes_have_the_area_of_their_formula() -> None:
    """Areas are divided by the square of the radius."""
    expected = {
        "circle": np.pi * 0.95**2,
        "square": 4 * 0.84**2,
        "triangle": 1.8,
        "star": 10 * 0.5 * 1.08 * 0.44 * np.sin(np.pi / 5),
        "ring": np.pi * (0.98**2 - 0.50**2),
        "cross": 2 * 0.6 * 1.92 - 0.6**2,
    }
    for shape, area in expected.items():
        away = difference(of_one(replace(MIDDLE, shape=shape, radius=20.0)))
        assert away.sum() / 400 == pytest.approx(area, rel=0.02), shape


def test_a_ring_has_a_hole_and_a_triangle_points_up() -> None:
    assert difference(of_one(replace(MIDDLE, shape="ring")))[32, 32] == 0
    triangle = difference(of_one(replace(MIDDLE, shape="triangle"))) > 0.5
    assert triangle[22:26].sum() < 0.5 * triangle[38:42].sum()


def test_both_objects_of_a_pair_have_their_colours() -> None:
    first = replace(MIDDLE, x=16.0, colour="green")
    second = replace(MIDDLE, x=48.0, colour="purple")
    image = render(Scene((first, second), "sand", CLEAN, "left of"))
    for column, colour in ((16, "green"), (48, "purple")):
        np.testing.assert_allclose(image[32, column], 255 * CLEAN.shown_colour(colour), atol=0.51)


def test_a_clean_image_shows_its_background() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        scene = replace(Scene.random(rng, "any"), style=CLEAN)
        ground = 255 * np.array(BACKGROUNDS[scene.background])
        share = (np.abs(render(scene) - ground).max(axis=-1) < 1).mean()
        assert share > 0.3


@pytest.mark.parametrize("style", [CLEAN, Style(1, 1, 1, 1)], ids=["clean", "best"])
def test_no_pixel_is_clipped(style: Style) -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        image = render(replace(Scene.random(rng, "any"), style=style))
        assert image.min() > 0
        assert image.max() < 253


def test_full_saturation_shows_the_named_colour_and_low_saturation_greys_it() -> None:
    vivid, dull = Style(1, 1, 1, 1), Style(0, 1, 1, 1)
    for name, rgb in COLOURS.items():
        np.testing.assert_allclose(vivid.shown_colour(name), rgb, atol=1e-6)
        greyed = dull.shown_colour(name)
        assert np.ptp(greyed) == pytest.approx(0.4 * np.ptp(rgb), rel=1e-4)
        assert int(np.argmax(greyed)) == int(np.argmax(rgb))


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_backdrop_is_brightest_at_the_top_left(background: str) -> None:
    item = replace(MIDDLE, radius=6.0)
    corners = []
    for backdrop in (0.0, 0.5, 1.0):
        light = render(of_one(item, background, replace(CLEAN, backdrop=backdrop))).astype(int).sum(axis=-1)
        border = np.concatenate([light[0], light[1:, -1]])  # along the top, and down the right side
        assert (np.diff(border) <= 0).all()
        corners.append(border[0] - border[-1])
    assert corners[0] == 0
    assert 60 < corners[1] < corners[2]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shading_lights_an_object_from_the_top_left(shape: str, colour: str) -> None:
    item = replace(MIDDLE, shape=shape, colour=colour, radius=20.0)
    change = moved(replace(CLEAN, shading=1.0), "grey", item)
    rows, columns = np.mgrid[0:64, 0:64]
    near, far = change[rows + columns < 56], change[rows + columns > 70]
    assert near.min() >= 0
    assert near.max() > 50
    assert far.max() <= 0
    assert far.min() < -50
    outside = signed_distance(item) > 1.5
    assert not change[outside].any()


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_depth_casts_a_shadow_or_light_to_the_bottom_right(background: str) -> None:
    strong, weak = (moved(replace(CLEAN, depth=depth), background) for depth in (1.0, 0.5))
    sign = 1 if background in ("black", "navy") else -1
    beyond = 46  # the square ends at 44.2, its cast at 48.2
    for line in (sign * strong[36], sign * strong[:, 36]):
        assert line[beyond] > 100
        assert line[beyond] > line[beyond + 4] > line[beyond + 10] >= 0
        assert (np.abs(line[:16]) < 12).all()  # towards the light
    assert 0 < sign * weak[36, beyond] < sign * strong[36, beyond]
    assert not strong[signed_distance(MIDDLE) < -1].any()


def test_no_cast_falls_on_another_object() -> None:
    first = replace(MIDDLE, x=20.0, colour="green")
    second = replace(MIDDLE, x=46.0, colour="purple")
    for items in ((first, second), (second, first)):
        image = render(Scene(items, "white", replace(CLEAN, depth=1.0)))
        np.testing.assert_allclose(image[32, 36], 255 * CLEAN.shown_colour("purple"), atol=0.51)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown shape 'hexagon'"):
        render(of_one(replace(MIDDLE, shape="hexagon")))
