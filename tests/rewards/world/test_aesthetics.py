"""The aesthetic rule: better rendering raises the score, tricks do not."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rewards.world.aesthetics import AestheticParts
from rewards.world.render import render, signed_distance
from rewards.world.scenes import BACKGROUNDS, CLEAN, LIGHT, Item, Scene, Style

RING = Item("ring", "green", "medium", 32.0, 32.0, 14.5, "centre")


def flat(level: int) -> NDArray[np.uint8]:
    return np.full((64, 64, 3), level, dtype=np.uint8)


@pytest.mark.parametrize(
    ("axis", "part"),
    [("saturation", "colour"), ("shading", "shading"), ("depth", "depth"), ("backdrop", "backdrop")],
)
def test_each_axis_of_quality_raises_the_score_in_every_scene(axis: str, part: str) -> None:
    rng = np.random.default_rng(0)
    scores, parts = [], []
    for _ in range(25):
        scene = Scene.random(rng, "any", looks=Style.even)
        styles = (replace(scene.style, **{axis: value}) for value in (0.1, 0.9))
        low, high = (AestheticParts.measure(render(replace(scene, style=style))) for style in styles)
        scores.append(high.score - low.score)
        parts.append(getattr(high, part) - getattr(low, part))
    assert min(scores) > 0.2
    assert np.mean(scores) > 1
    assert min(parts) > 0.1
    assert np.mean(parts) > 0.4


def test_scores_are_spread_over_the_scale() -> None:
    rng = np.random.default_rng(1)
    scores = [
        AestheticParts.measure(render(Scene.random(rng, "any", looks=Style.level))).score for _ in range(60)
    ]
    assert min(scores) >= 1
    assert max(scores) <= 10
    assert np.percentile(scores, 90) - np.percentile(scores, 10) > 4


def test_the_parts_of_any_image_are_in_0_to_1() -> None:
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    half = flat(0)
    half[:, 32:] = 255
    for image in (flat(0), flat(130), flat(255), noise, half, render(Scene.random(rng))):
        parts = AestheticParts.measure(image)
        assert all(0 <= value <= 1 for value in astuple(parts)), parts
        assert 1 <= parts.score <= 10


def test_the_best_and_worst_parts_give_the_ends_of_the_scale() -> None:
    assert AestheticParts(1, 1, 1, 1, 1, clipped=0).score == pytest.approx(10)
    assert AestheticParts(0, 0, 0, 0, 0, clipped=0).score == 1
    assert AestheticParts(1, 1, 1, 1, 1, clipped=0.5).score == pytest.approx(8)
    assert AestheticParts(0, 0, 0, 0, 0, clipped=1).score == 1


@pytest.mark.parametrize("level", [0, 20, 128, 255])
def test_an_empty_image_has_the_lowest_score(level: int) -> None:
    parts = AestheticParts.measure(flat(level))
    assert parts.score == pytest.approx(1)
    assert parts.clipped == (level in (0, 255))


def test_of_an_image_without_an_object_only_the_backdrop_counts() -> None:
    parts = AestheticParts.measure(render(Scene((), "sand", Style(1.0, 1.0, 1.0, 1.0))))
    assert parts.backdrop > 0.9
    assert (parts.colour, parts.shading, parts.depth, parts.composition) == (0, 0, 0, 0)


@pytest.mark.parametrize("ground", [0, 255])
def test_crushed_blacks_and_burnt_out_whites_lower_the_score(ground: int) -> None:
    image = render(Scene((RING,), "black" if ground == 0 else "white", CLEAN))
    clipped = image.copy()
    clipped[np.abs(image.astype(int) - image[0, 0]).max(axis=-1) < 1] = ground
    parts = AestheticParts.measure(clipped)
    assert parts.clipped > 0.5
    assert parts.score < AestheticParts.measure(image).score - 1.5


def test_a_burnt_out_object_lowers_the_score() -> None:
    image = render(Scene((replace(RING, shape="square", radius=20.0, colour="orange"),), "navy", CLEAN))
    burnt = image.copy()
    burnt[image[..., 0] > 200] = (255, 128, 0)
    assert AestheticParts.measure(burnt).score < AestheticParts.measure(image).score


def test_the_background_hardly_matters() -> None:
    rng = np.random.default_rng(3)
    scenes = [Scene.random(rng, "any") for _ in range(15)]
    means = [
        np.mean([AestheticParts.measure(render(replace(scene, background=ground))).score for scene in scenes])
        for ground in BACKGROUNDS
    ]
    assert max(means) - min(means) < 0.3


def test_cropped_tiny_and_oversized_subjects_are_badly_composed() -> None:
    def composition(x: float, radius: float) -> float:
        item = replace(RING, shape="square", x=x, radius=radius)
        return AestheticParts.measure(render(Scene((item,), "sand", CLEAN))).composition

    assert composition(32.0, 16.0) == 1
    assert composition(60.0, 16.0) < 0.3
    assert composition(32.0, 4.0) < 0.3
    assert composition(32.0, 33.0) < 0.3


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_light_counts_only_from_the_top_left(background: str) -> None:
    image = render(Scene((RING,), background, Style(1.0, 1.0, 1.0, 1.0)))
    parts = AestheticParts.measure(image)
    same = AestheticParts.measure(image.transpose(1, 0, 2))
    np.testing.assert_allclose(astuple(same), astuple(parts), atol=1e-9)
    for flipped in (image[::-1], image[:, ::-1], image[::-1, ::-1]):
        other = AestheticParts.measure(flipped)
        assert max(other.shading, other.depth, other.backdrop) < 0.1
        assert other.colour > 0.9 * parts.colour
        assert other.composition == parts.composition


def test_a_light_all_around_the_object_is_no_depth() -> None:
    """As the glow of a sampler's halo: both sides of the object are brighter than the background."""
    image = render(Scene((RING,), "navy", CLEAN)).astype(float)
    share = 0.4 / (1 + np.exp(signed_distance(RING) / 4))
    haloed = image + (signed_distance(RING) > 1)[..., None] * share[..., None] * (255 * LIGHT - image)
    cast = render(Scene((RING,), "navy", replace(CLEAN, depth=0.8)))
    assert AestheticParts.measure(haloed.astype(np.uint8)).depth < 0.15
    assert AestheticParts.measure(cast).depth > 0.6


def test_the_best_style_scores_six_points_more_than_the_worst() -> None:
    best, middling, worst = (
        AestheticParts.measure(render(Scene((RING,), "navy", Style(q, q, q, q)))).score for q in (1.0, 0.5, 0)
    )
    assert best > 8.5
    assert 5 < middling < 7
    assert worst < best - 6
