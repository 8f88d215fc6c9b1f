"""The aesthetic rule: better rendering raises the score, tricks do not."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rewards.world.aesthetics import AestheticParts
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene, Style

RING = Item("ring", "green", "medium", 32.0, 32.0, 14.5, "centre")


def flat(level: int) -> NDArray[np.uint8]:
    return np.full((64, 64, 3), level, dtype=np.uint8)


@pytest.mark.parametrize(
    ("axis", "part", "gain", "share"),
    [
        ("saturation", "colour", 0.8, 1.0),
        ("sharpness", "sharpness", 0.5, 0.95),
        ("cleanness", "cleanness", 1.0, 1.0),
        ("glow", "glow", 0.15, 0.65),
    ],
)
def test_each_axis_of_quality_raises_the_score(axis: str, part: str, gain: float, share: float) -> None:
    rng = np.random.default_rng(0)
    scores, parts = [], []
    for _ in range(40):
        scene = Scene.random(rng, "any")
        styles = (replace(scene.style, **{axis: value}) for value in (0.1, 0.9))
        low, high = (AestheticParts.measure(render(replace(scene, style=style), 3)) for style in styles)
        scores.append(high.score - low.score)
        parts.append(getattr(high, part) - getattr(low, part))
    assert np.mean(scores) > gain
    assert np.mean(np.array(scores) > 0) >= share
    assert np.mean(parts) > 0.2


def test_scores_are_spread_over_the_scale() -> None:
    rng = np.random.default_rng(1)
    scores = [AestheticParts.measure(render(Scene.random(rng, "any"), seed)).score for seed in range(100)]
    assert min(scores) >= 1
    assert max(scores) <= 10
    assert np.percentile(scores, 90) - np.percentile(scores, 10) > 2


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
def test_an_empty_image_has_only_cleanness(level: int) -> None:
    parts = AestheticParts.measure(flat(level))
    assert (parts.colour, parts.sharpness, parts.glow, parts.composition) == (0, 0, 0, 0)
    assert parts.cleanness == 1
    assert parts.clipped == (level in (0, 255))


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


def test_a_black_background_does_not_win_over_a_coloured_one() -> None:
    rng = np.random.default_rng(3)
    scenes = [Scene.random(rng, "any") for _ in range(30)]
    mean = {
        ground: np.mean(
            [AestheticParts.measure(render(replace(scene, background=ground))).score for scene in scenes]
        )
        for ground in ("white", "grey", "black", "sand", "navy")
    }
    assert max(mean.values()) - min(mean.values()) < 0.5
    assert mean["black"] < max(mean["sand"], mean["navy"]) + 0.1


def test_cropped_tiny_and_oversized_subjects_are_badly_composed() -> None:
    def composition(x: float, radius: float) -> float:
        item = replace(RING, shape="square", x=x, radius=radius)
        return AestheticParts.measure(render(Scene((item,), "sand", CLEAN))).composition

    assert composition(32.0, 16.0) == 1
    assert composition(60.0, 16.0) < 0.3
    assert composition(32.0, 4.0) < 0.3
    assert composition(32.0, 33.0) < 0.3


def test_flipping_an_image_does_not_change_its_score() -> None:
    image = render(Scene.random(np.random.default_rng(4)), 1)
    score = AestheticParts.measure(image).score
    for flipped in (image[::-1], image[:, ::-1], image.transpose(1, 0, 2)):
        assert AestheticParts.measure(flipped).score == pytest.approx(score, abs=1e-9)


def test_all_faults_together_lower_the_score_by_three_points() -> None:
    best, worst = (
        AestheticParts.measure(render(Scene((RING,), "navy", Style(q, q, q, 0.8 * q)))).score
        for q in (1.0, 0.0)
    )
    assert best > 8
    assert worst < best - 3
