"""Image analysis: rendered scenes are recognised in any style, with bounded error rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from rewards.world.captions import Spec
from rewards.world.claims import check_claims
from rewards.world.render import render
from rewards.world.scenes import BACKGROUNDS, CLEAN, COLOURS, SHAPES, Item, Scene, Style
from rewards.world.training.evaluate import measure_oracle
from rewards.world.vision import Detection, _rgb_to_lab, detect_objects

RING = Item("ring", "green", "medium", 32.0, 32.0, 14.5, "centre")


@pytest.mark.parametrize(("clean", "least", "most"), [(True, 0.98, 0.02), (False, 0.96, 0.03)])
def test_true_claims_are_accepted_and_swapped_ones_are_not(clean: bool, least: float, most: float) -> None:
    report = measure_oracle(120, seed=0, clean=clean)
    kinds = {"object", "colour", "size", "position", "background", "relation"}
    assert set(report.accepted_swapped) == {*kinds, "all"}
    assert set(report.accepted_true) == {*kinds, "all", "count"}
    assert min(report.accepted_true.values()) >= least, report.accepted_true
    assert max(report.accepted_swapped.values()) <= most, report.accepted_swapped
    assert min(report.by_quality_decile) >= least - 0.05


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_background_and_colour_is_named_dull_or_vivid(background: str) -> None:
    for saturation in (0.0, 0.5, 1.0):
        for colour in COLOURS:
            scene = Scene((replace(RING, colour=colour),), background, replace(CLEAN, saturation=saturation))
            detection = detect_objects(render(scene))
            assert detection.background == background
            assert [each.colour for each in detection.objects] == [colour]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_is_measured_to_a_pixel(shape: str) -> None:
    for radius, size in ((10.0, "small"), (14.5, "medium"), (20.5, "large")):
        item = replace(RING, shape=shape, x=30.5, y=33.0, radius=radius)
        (each,) = detect_objects(render(Scene((item,), "grey", CLEAN))).objects
        assert (each.shape, each.size, each.position) == (shape, size, "centre")
        assert each.x == pytest.approx(30.5, abs=0.5)
        assert each.y == pytest.approx(33.0, abs=0.5)
        assert each.radius == pytest.approx(radius, abs=0.6)


def test_objects_are_sorted_by_size() -> None:
    small = replace(RING, shape="square", x=14.0, radius=10.0)
    large = replace(RING, shape="circle", x=46.0, radius=14.5)
    for items in ((small, large), (large, small)):
        objects = detect_objects(render(Scene(items, "white", CLEAN))).objects
        assert [each.shape for each in objects] == ["circle", "square"]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0], ids=["dull", "middling", "vivid"])
def test_nearly_all_scenes_are_recognised_without_any_mistake_in_any_style(level: float) -> None:
    rng = np.random.default_rng(1)
    style = Style(level, level, level, level)
    scenes = [Scene.random(rng, "any", pairs=0.5, looks=lambda _: style) for _ in range(40)]
    whole = [
        all(claim.true for claim in check_claims(detect_objects(render(scene)), Spec.of(scene)))
        for scene in scenes
    ]
    assert np.mean(whole) >= 0.95


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_shadows_pools_of_light_and_gradients_are_not_objects(background: str) -> None:
    disc = replace(RING, shape="circle", colour="orange")
    for item in (RING, disc, replace(RING, shape="star", x=20.0, y=46.0)):
        scene = Scene((item,), background, Style(0.5, 1.0, 1.0, 1.0))
        detection = detect_objects(render(scene))
        assert detection.background == background
        assert [(each.shape, each.colour) for each in detection.objects] == [(item.shape, item.colour)]
    empty = Scene((), background, Style(1.0, 1.0, 1.0, 1.0))
    assert detect_objects(render(empty)) == Detection(background, ())


def test_noise_and_blur_are_tolerated() -> None:
    rng = np.random.default_rng(2)
    for scene in (Scene.random(rng, "any") for _ in range(15)):
        image = render(scene).astype(float)
        blurred = ndimage.gaussian_filter(image, (0.7, 0.7, 0))
        noisy = np.clip(blurred + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
        true = [claim.true for claim in check_claims(detect_objects(noisy), Spec.of(scene))]
        assert np.mean(true) > 0.8, scene


def test_an_empty_image_has_no_objects() -> None:
    for level in (0, 17, 128, 255):
        assert detect_objects(np.full((64, 64, 3), level, dtype=np.uint8)).objects == ()


def test_any_image_can_be_analysed() -> None:
    rng = np.random.default_rng(0)
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    for image in (rng.integers(0, 256, (64, 64, 3)), np.repeat(checks[..., None], 3, axis=2)):
        assert detect_objects(image.astype(np.uint8)).background in BACKGROUNDS


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 64), (64, 64, 4), (3, 64, 64)])
def test_another_shape_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"expected an RGB image of shape \(64, 64, 3\), got \(" + str(shape[0])
    ):
        detect_objects(np.zeros(shape, dtype=np.uint8))


def test_analysis_does_not_change_the_image() -> None:
    image = render(Scene.random(np.random.default_rng(0)))
    before = image.copy()
    detect_objects(image)
    np.testing.assert_array_equal(image, before)


def test_lab_has_the_published_values() -> None:
    """Lindbloom's values for sRGB's white, black, mid grey, red and blue under D65."""
    rgb = np.array([[1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], [1, 0, 0], [0, 0, 1]], dtype=float)
    expected = [[100, 0, 0], [0, 0, 0], [53.39, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(_rgb_to_lab(rgb), expected, atol=0.1)
