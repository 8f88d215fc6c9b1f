"""Simulated raters, their comparisons, and the two rewards that are trained on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import rewards
from rewards.preprocess import to_bytes
from rewards.world.captions import parse_prompt
from rewards.world.claims import check_claims
from rewards.world.scenes import Scene, Style
from rewards.world.training import clip, data
from rewards.world.training.preferences import (
    BLIP_RATER,
    HPS_PLAN,
    HPS_RATER,
    PICK_PLAN,
    PICK_RATER,
    ComparisonBatch,
    Rater,
    train_hps,
    train_pick,
)
from rewards.world.training.tokenizer import CaptionTokenizer
from rewards.world.vision import detect_objects

RATERS = [PICK_RATER, HPS_RATER, BLIP_RATER]
PEDANT = Rater(miss=4.0, quality=0.0, axes=(0.25, 0.25, 0.25, 0.25))
AESTHETE = Rater(miss=0.0, quality=50.0, axes=(1.0, 0.0, 0.0, 0.0))


def scene(style: Style) -> Scene:
    return replace(Scene.random(np.random.default_rng(0)), style=style)


@pytest.mark.parametrize("rater", RATERS)
def test_a_raters_utility_falls_with_misses_and_rises_with_each_axis(rater: Rater) -> None:
    middling = Style(0.5, 0.5, 0.5, 0.5)
    utilities = [rater.utility(scene(middling), misses) for misses in range(3)]
    np.testing.assert_allclose(np.diff(utilities), -rater.miss)
    for axis in ("saturation", "shading", "depth", "backdrop"):
        better = scene(replace(middling, **{axis: 0.9}))
        assert rater.utility(better, 0) > utilities[0]
    best, worst = (rater.utility(scene(Style(q, q, q, q)), 0) for q in (1.0, 0.0))
    assert best - worst == pytest.approx(rater.quality)


def test_raters_have_different_tastes() -> None:
    for one, other in ((PICK_RATER, HPS_RATER), (PICK_RATER, BLIP_RATER), (HPS_RATER, BLIP_RATER)):
        assert one.axes != other.axes
        assert one.miss / one.quality != other.miss / other.quality


def test_comparisons_have_the_documented_shapes_and_ranges_and_depend_on_the_seed() -> None:
    batch = PICK_RATER.compare(np.random.default_rng(1), 6)
    assert len(batch.texts) == 6
    assert all(parse_prompt(text).items for text in batch.texts)
    assert batch.images.shape == (6, 2, 3, 64, 64)
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.first.shape == (6,)
    assert batch.first.dtype == torch.float32
    assert ((batch.first > 0) & (batch.first < 1)).all()
    again = PICK_RATER.compare(np.random.default_rng(1), 6)
    assert again.texts == batch.texts
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.first, batch.first)


def test_a_comparison_has_the_scenes_of_its_captions_and_images() -> None:
    rng = np.random.default_rng(9)
    batch = PEDANT.compare(rng, 40)
    assert len(batch.described) == 40
    assert len(batch.shown) == 80
    for text, scene in zip(batch.texts, batch.described, strict=True):
        assert [item.shape for item in parse_prompt(text).items] == [item.shape for item in scene.items]
    described = [scene for scene in batch.described for _ in range(2)]
    same = [scene == shown for scene, shown in zip(described, batch.shown, strict=True)]
    assert 0 < sum(same) < 80


def test_the_first_and_the_second_are_preferred_equally_often() -> None:
    first = PICK_RATER.compare(np.random.default_rng(2), 300).first
    assert first.mean() == pytest.approx(0.5, abs=0.06)
    assert (first - 0.5).abs().mean() > 0.15


def test_the_probability_is_the_logistic_of_the_difference_in_misses() -> None:
    """A rater who counts only misses has five probabilities, for differences of -2 to 2."""
    batch = PEDANT.compare(np.random.default_rng(3), 150)
    known = torch.tensor([1 / (1 + math.exp(-4.0 * difference)) for difference in range(-2, 3)])
    nearest = (batch.first[:, None] - known).abs().min(dim=1).values
    assert nearest.max() < 1e-5
    # six of ten pairs have independent misses: 0.6 (0.5^2 + 0.35^2 + 0.15^2) = 0.24
    assert 0.12 < (batch.first == 0.5).float().mean() < 0.36


def test_images_of_the_same_style_differ_in_misses() -> None:
    """A rater who does not count misses is undecided between them."""
    first = AESTHETE.compare(np.random.default_rng(7), 200).first
    assert (first == 0.5).float().mean() == pytest.approx(0.4, abs=0.1)
    counted = PEDANT.compare(np.random.default_rng(7), 200).first  # the same images
    assert (counted[first == 0.5] != 0.5).all()


def test_a_rater_who_likes_colour_prefers_the_more_colourful_image() -> None:
    batch = AESTHETE.compare(np.random.default_rng(4), 120)
    sure = (batch.first - 0.5).abs() > 0.499
    chroma = (batch.images.amax(dim=2) - batch.images.amin(dim=2)).flatten(2).quantile(0.98, dim=2)
    right = (chroma[:, 0] > chroma[:, 1]) == (batch.first > 0.5)
    assert sure.sum() > 20
    assert right[sure].float().mean() > 0.75


def test_misses_show_in_the_images() -> None:
    """The oracle, which sees only pixels, finds more true claims in the image that the pedant prefers."""
    batch = PEDANT.compare(np.random.default_rng(5), 60)
    shares = [
        [
            np.mean([claim.true for claim in check_claims(detect_objects(image), text)])
            for image in to_bytes(pair)
        ]
        for text, pair in zip(batch.texts, batch.images, strict=True)
    ]
    first, second = np.array(shares).T
    differs = (batch.first - 0.5).abs().numpy() > 0.01
    agrees = np.where(batch.first.numpy() > 0.5, first > second, first < second)
    assert agrees[differs].mean() > 0.85


def test_two_misses_change_two_attributes() -> None:
    rng = np.random.default_rng(6)
    for before in data.random_scenes(rng, 100):
        after = data.near_miss(rng, before, misses=2)
        count = sum(getattr(before, kind) != getattr(after, kind) for kind in ("background", "relation"))
        for one, other in zip(before.items, after.items, strict=True):
            count += sum(
                getattr(one, k) != getattr(other, k) for k in ("shape", "colour", "size", "position")
            )
        assert count == 2


def test_the_loss_is_the_cross_entropy_with_the_raters_probability() -> None:
    margin, first = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.9, 0.2, 0.3])
    chance = 1 / (1 + (-margin).exp())
    expected = -(first * chance.log() + (1 - first) * (1 - chance).log()).mean()
    batch = ComparisonBatch([], torch.empty(0), first, [], [])
    losses = batch.loss(margin)
    torch.testing.assert_close(losses["loss"], expected)
    assert losses["accuracy"] == pytest.approx(2 / 3)
    assert batch.loss(torch.logit(first))["loss"] < losses["loss"]  # lowest at the rater's margin


def test_world_pick_is_reproducible_and_its_transformers_folder_gives_the_models_scores(
    tokenizer: Path, world_clip: Path, build_folder: Path, other_build_folder: Path
) -> None:
    plan = replace(PICK_PLAN, steps=3, batch=4, warmup=1)
    model: Any = train_pick(build_folder, plan)
    again = train_pick(build_folder, plan)
    other = train_pick(other_build_folder, plan)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert torch.equal(value, other.state_dict()[name])
    tokens = CaptionTokenizer(tokenizer)
    assert not torch.equal(
        model.visual.proj, clip.load_clip(world_clip, len(tokens)).state_dict()["visual.proj"]
    )
    files = {"model": build_folder / "world-pick", "tokenizer": tokenizer}
    reward = rewards.load("world-pick", weights=files)
    batch = PICK_RATER.compare(np.random.default_rng(7), 2)
    texts = [text for text in batch.texts for _ in range(2)]
    with torch.inference_mode():
        image = F.normalize(model.encode_image(clip.normalise_for_clip(batch.images.flatten(0, 1))), dim=-1)
        text = F.normalize(model.encode_text(tokens(texts)), dim=-1)
        expected = (image * text).sum(-1) * model.logit_scale.exp()
        torch.testing.assert_close(
            reward.score(batch.images.flatten(0, 1), texts), expected, rtol=0.02, atol=0.05
        )


def test_hps_scores_are_cosines_of_the_model_in_its_open_clip_folder(
    tokenizer: Path, build_folder: Path
) -> None:
    tokens = CaptionTokenizer(tokenizer)
    plan = replace(HPS_PLAN, steps=3, batch=4, warmup=1)
    model: Any = train_hps(build_folder, plan)
    files = {"backbone": build_folder / "world-hps", "tokenizer": tokenizer}
    reward = rewards.load("world-hps", weights=files)
    batch = HPS_RATER.compare(np.random.default_rng(8), 3)
    with torch.inference_mode():
        image = F.normalize(model.encode_image(clip.normalise_for_clip(batch.images[:, 0])), dim=-1)
        text = F.normalize(model.encode_text(tokens(batch.texts)), dim=-1)
        torch.testing.assert_close(
            reward.score(batch.images[:, 0], batch.texts), (image * text).sum(-1), rtol=0.02, atol=2e-3
        )
