"""Renders: exact in a clean style, reproducible in a noisy one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rewards.world.render import render
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


def test_the_same_scene_and_noise_seed_give_the_same_image() -> None:
    noisy = of_one(MIDDLE, style=replace(CLEAN, cleanness=0.5))
    first = render(noisy, 1)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, render(noisy, 1))
    assert (first != render(noisy, 2)).mean() > 0.5
    np.testing.assert_array_equal(render(of_one(MIDDLE), 1), render(of_one(MIDDLE), 2))


def test_noise_follows_the_style_and_has_no_colour_cast() -> None:
    clean = render(of_one(MIDDLE, "grey")).astype(float)
    deviations = []
    for cleanness in (0.8, 0.4, 0.0):
        noise = render(of_one(MIDDLE, "grey", replace(CLEAN, cleanness=cleanness)), 5)[:15] - clean[:15]
        assert np.abs(noise.mean(axis=(0, 1))).max() < 2
        deviations.append(noise.std())
    np.testing.assert_allclose(deviations, 255 * 0.075 * np.array([0.2, 0.6, 1.0]), rtol=0.1)


def test_a_crisp_edge_is_anti_aliased_by_coverage() -> None:
    """The square's right edge is at 32 + 0.84 x 14.5 = 44.18: 18 % of pixel 44 are red."""
    row = render(of_one(MIDDLE))[32].astype(float)
    red, white = (255 * CLEAN.shown_colour("red"), 255 * CLEAN.shown_background("white"))
    np.testing.assert_allclose(row[43], red, atol=0.51)
    np.testing.assert_allclose(row[44], 0.18 * red + 0.82 * white, atol=0.51)
    np.testing.assert_allclose(row[45], white, atol=0.51)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_anti_aliased_and_softer_styles_have_wider_edges(shape: str) -> None:
    def between(style: Style) -> int:
        away = difference(of_one(replace(MIDDLE, shape=shape), style=style))
        return int(((away > 0.03) & (away < 0.97)).sum())

    crisp, soft = between(CLEAN), between(replace(CLEAN, sharpness=0.2))
    assert crisp > 20
    assert soft > 1.5 * crisp


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


def test_a_clean_image_shows_its_background_and_has_no_clipped_pixel() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = replace(Scene.random(rng, "any"), style=CLEAN)
        image = render(scene)
        assert image.min() > 0
        assert image.max() < 255
        ground = 255 * CLEAN.shown_background(scene.background)
        share = (np.abs(image - ground).max(axis=-1) < 1).mean()
        assert share > 0.3


def test_full_saturation_shows_the_named_colour_and_low_saturation_greys_it() -> None:
    for name, rgb in COLOURS.items():
        np.testing.assert_allclose(Style(1, 1, 1, 0).shown_colour(name), rgb, atol=1e-6)
        dull = Style(0, 1, 1, 0).shown_colour(name)
        assert np.ptp(dull) == pytest.approx(0.3 * np.ptp(rgb), rel=1e-4)
        assert int(np.argmax(dull)) == int(np.argmax(rgb))
    for name, rgb in BACKGROUNDS.items():
        np.testing.assert_allclose(Style(1, 1, 1, 0).shown_background(name), rgb, atol=1e-6)


def test_a_glow_lights_the_background_near_the_object_only() -> None:
    flat, glowing = (render(of_one(MIDDLE, "navy", replace(CLEAN, glow=g))).astype(int) for g in (0.0, 1.0))
    gain = (glowing - flat)[32, :, 0]  # red light
    assert gain[46] > gain[50] > gain[55] > 0
    assert gain[46] > 40
    assert abs(gain[0]) < 8


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown shape 'hexagon'"):
        render(of_one(replace(MIDDLE, shape="hexagon")))
