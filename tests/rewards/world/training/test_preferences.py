"""Rendered preferences: raters who want what they say, and two rewards that learn from them."""

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
from rewards.world.captions import read
from rewards.world.claims import answers
from rewards.world.pixels import to_bytes
from rewards.world.scenes import Scene, Style, random_scene
from rewards.world.training import clip, data, preferences
from rewards.world.training.preferences import (
    BLIP_RATER,
    HPS_PLAN,
    HPS_RATER,
    PICK_PLAN,
    PICK_RATER,
    Rater,
    as_transformers,
    bradley_terry,
    comparisons,
)
from rewards.world.vision import look

RATERS = [PICK_RATER, HPS_RATER, BLIP_RATER]
PEDANT = Rater(miss=4.0, quality=0.0, axes=(0.25, 0.25, 0.25, 0.25))
AESTHETE = Rater(miss=0.0, quality=50.0, axes=(1.0, 0.0, 0.0, 0.0))


def scene(style: Style) -> Scene:
    return replace(random_scene(np.random.default_rng(0)), style=style)


@pytest.mark.parametrize("rater", RATERS)
def test_a_raters_utility_falls_with_misses_and_rises_with_each_axis(rater: Rater) -> None:
    middling = Style(0.5, 0.5, 0.5, 0.5)
    utilities = [rater.utility(scene(middling), misses) for misses in range(3)]
    np.testing.assert_allclose(np.diff(utilities), -rater.miss)
    for axis in ("saturation", "sharpness", "cleanness", "glow"):
        better = scene(replace(middling, **{axis: 0.9}))
        assert rater.utility(better, 0) > utilities[0]
    best, worst = (rater.utility(scene(Style(q, q, q, q)), 0) for q in (1.0, 0.0))
    assert best - worst == pytest.approx(rater.quality)


def test_raters_have_different_tastes() -> None:
    for one, other in ((PICK_RATER, HPS_RATER), (PICK_RATER, BLIP_RATER), (HPS_RATER, BLIP_RATER)):
        assert one.axes != other.axes
        assert one.miss / one.quality != other.miss / other.quality


def test_comparisons_are_pictures_texts_and_chances_of_the_shapes_said() -> None:
    batch = comparisons(np.random.default_rng(1), 6, PICK_RATER)
    assert len(batch.texts) == 6
    assert all(read(text).items for text in batch.texts)
    assert batch.images.shape == (6, 2, 3, 64, 64)
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.first.shape == (6,)
    assert batch.first.dtype == torch.float32
    assert ((batch.first > 0) & (batch.first < 1)).all()
    again = comparisons(np.random.default_rng(1), 6, PICK_RATER)
    assert again.texts == batch.texts
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.first, batch.first)


def test_a_comparison_keeps_what_is_told_and_what_is_shown() -> None:
    rng = np.random.default_rng(9)
    batch = comparisons(rng, 40, PEDANT)
    assert len(batch.told) == 40
    assert len(batch.shown) == 80
    for text, scene in zip(batch.texts, batch.told, strict=True):
        assert [item.shape for item in read(text).items] == [item.shape for item in scene.items]
    right = [scene == told for told, scene in zip(np.repeat(batch.told, 2), batch.shown, strict=True)]
    assert 0 < sum(right) < 80


def test_the_first_and_the_second_are_preferred_equally_often() -> None:
    first = comparisons(np.random.default_rng(2), 300, PICK_RATER).first
    assert first.mean() == pytest.approx(0.5, abs=0.06)
    assert (first - 0.5).abs().mean() > 0.15


def test_the_chance_is_a_logistic_of_the_difference_in_misses() -> None:
    """A rater who counts misses alone knows five chances: differences of -2 to 2."""
    batch = comparisons(np.random.default_rng(3), 150, PEDANT)
    known = torch.tensor([1 / (1 + math.exp(-4.0 * difference)) for difference in range(-2, 3)])
    nearest = (batch.first[:, None] - known).abs().min(dim=1).values
    assert nearest.max() < 1e-5
    # six of ten pairs draw their misses independently: 0.6 (0.5^2 + 0.35^2 + 0.15^2) = 0.24
    assert 0.12 < (batch.first == 0.5).float().mean() < 0.36


def test_two_pictures_of_one_style_are_told_apart_by_their_misses() -> None:
    """Whoever does not count misses is undecided between them."""
    first = comparisons(np.random.default_rng(7), 200, AESTHETE).first
    assert (first == 0.5).float().mean() == pytest.approx(0.4, abs=0.1)
    counted = comparisons(np.random.default_rng(7), 200, PEDANT).first  # the same pictures
    assert (counted[first == 0.5] != 0.5).all()


def test_who_loves_colour_prefers_the_more_colourful_picture() -> None:
    batch = comparisons(np.random.default_rng(4), 120, AESTHETE)
    sure = (batch.first - 0.5).abs() > 0.499
    chroma = (batch.images.amax(dim=2) - batch.images.amin(dim=2)).flatten(2).quantile(0.98, dim=2)
    right = (chroma[:, 0] > chroma[:, 1]) == (batch.first > 0.5)
    assert sure.sum() > 20
    assert right[sure].float().mean() > 0.75


def test_what_a_rater_counts_as_a_miss_can_be_seen() -> None:
    """The oracle, which knows the pictures alone, finds the pedant's favourite truer."""
    batch = comparisons(np.random.default_rng(5), 100, PEDANT)
    shares = [
        [np.mean([answer.true for answer in answers(look(image), text)]) for image in to_bytes(pair)]
        for text, pair in zip(batch.texts, batch.images, strict=True)
    ]
    first, second = np.array(shares).T
    differs = (batch.first - 0.5).abs().numpy() > 0.01
    agrees = np.where(batch.first.numpy() > 0.5, first > second, first < second)
    assert agrees[differs].mean() > 0.85


def test_two_misses_are_two() -> None:
    rng = np.random.default_rng(6)
    for before in data.random_scenes(rng, 100):
        after = data.near_miss(rng, before, misses=2)
        count = sum(getattr(before, kind) != getattr(after, kind) for kind in ("background", "relation"))
        for one, other in zip(before.items, after.items, strict=True):
            count += sum(
                getattr(one, k) != getattr(other, k) for k in ("shape", "colour", "size", "position")
            )
        assert count == 2


def test_bradley_terry_is_the_cross_entropy_of_the_raters_chance() -> None:
    margin, first = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.9, 0.2, 0.3])
    chance = 1 / (1 + (-margin).exp())
    expected = -(first * chance.log() + (1 - first) * (1 - chance).log()).mean()
    found = bradley_terry(margin, first)
    torch.testing.assert_close(found["loss"], expected)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert bradley_terry(torch.logit(first), first)["loss"] < found["loss"]  # least at the rater's own margin


def test_pick_is_trained_reproducibly_and_scores_as_the_trained_model_from_transformers_files(
    tokenizer: Path, world_clip: Path, tmp_path: Path
) -> None:
    plan = replace(PICK_PLAN, steps=3, batch=4, warmup=1)
    model: Any = preferences.train(tokenizer, world_clip, tmp_path, plan, PICK_RATER)
    again = preferences.train(tokenizer, world_clip, tmp_path, plan, PICK_RATER)
    other = preferences.train(tokenizer, world_clip, tmp_path / "other", plan, PICK_RATER)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert torch.equal(value, other.state_dict()[name])
    tokens = clip.Tokens(tokenizer)
    assert not torch.equal(model.visual.proj, clip.load(world_clip, len(tokens)).state_dict()["visual.proj"])
    converted: Any = as_transformers(model, tokens)
    converted.half().save_pretrained(tmp_path / "saved")
    reward = rewards.load("world-pick", weights={"model": tmp_path / "saved", "tokenizer": tokenizer})
    batch = comparisons(np.random.default_rng(7), 2, PICK_RATER)
    texts = [text for text in batch.texts for _ in range(2)]
    with torch.inference_mode():
        image = F.normalize(model.encode_image(clip.normalise(batch.images.flatten(0, 1))), dim=-1)
        text = F.normalize(model.encode_text(tokens(texts)), dim=-1)
        expected = (image * text).sum(-1) * model.logit_scale.exp()
        torch.testing.assert_close(
            reward.score(batch.images.flatten(0, 1), texts), expected, rtol=0.02, atol=0.05
        )


def test_hps_is_trained_to_another_taste_and_scores_a_cosine_from_open_clips_files(
    tokenizer: Path, world_clip: Path, tmp_path: Path
) -> None:
    tokens = clip.Tokens(tokenizer)
    plan = replace(HPS_PLAN, steps=3, batch=4, warmup=1)
    model: Any = preferences.train(tokenizer, world_clip, tmp_path, plan, HPS_RATER)
    assert (tmp_path / "world-hps.safetensors").exists()
    clip.save(model, len(tokens), tmp_path / "saved")
    reward = rewards.load("world-hps", weights={"backbone": tmp_path / "saved", "tokenizer": tokenizer})
    batch = comparisons(np.random.default_rng(8), 3, HPS_RATER)
    with torch.inference_mode():
        image = F.normalize(model.encode_image(clip.normalise(batch.images[:, 0])), dim=-1)
        text = F.normalize(model.encode_text(tokens(batch.texts)), dim=-1)
        torch.testing.assert_close(
            reward.score(batch.images[:, 0], batch.texts), (image * text).sum(-1), rtol=0.02, atol=2e-3
        )
