"""world-siglip: the paper's loss and start, in transformers' own model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rewards
from rewards.world.training import data, siglip
from rewards.world.training.clip import Tokens

PLANS = [replace(plan, steps=3, batch=4, warmup=1) for plan in (siglip.LOOK, siglip.PLAN)]


def test_the_loss_is_equation_1_of_the_paper() -> None:
    """Minus log sigmoid of z x logit over all pairs, z = 1 on the diagonal, over the number of images."""
    torch.manual_seed(0)
    logits = torch.randn(3, 6)
    total = 0.0
    for i in range(3):
        for j in range(6):
            z = 1 if i == j else -1
            total += math.log(1 + math.exp(-z * logits[i, j].item()))
    assert siglip.sigmoid_loss(logits)["loss"].item() == pytest.approx(total / 3, rel=1e-5)


def test_accuracy_counts_images_whose_own_caption_is_the_best_of_all() -> None:
    logits = -torch.ones(3, 6)
    logits.fill_diagonal_(1.0)
    assert siglip.sigmoid_loss(logits)["accuracy"] == 1
    logits[2, 5] = 2.0  # its near miss
    assert siglip.sigmoid_loss(logits)["accuracy"] == pytest.approx(2 / 3)


def test_it_starts_at_the_papers_temperature_and_bias(tokenizer: Path) -> None:
    model: Any = siglip.build(Tokens(tokenizer))
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert model.logit_bias.item() == -10


def test_normalise_is_the_registered_profiles_preprocessing() -> None:
    from rewards.preprocess import PROFILES, preprocess

    rng = np.random.default_rng(0)
    images = data.pictures(rng, data.random_scenes(rng, 2))
    expected = preprocess(images, PROFILES[rewards.info("world-siglip").profile])
    torch.testing.assert_close(siglip.normalise(images), expected)


def test_training_is_reproducible_resumable_and_makes_a_reward(tokenizer: Path, tmp_path: Path) -> None:
    model: Any = siglip.train(tokenizer, tmp_path / "first", *PLANS)
    torch.randn(3)
    for folder in ("first", "second"):  # finished, and from the start
        other: Any = siglip.train(tokenizer, tmp_path / folder, *PLANS)
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    rng = np.random.default_rng(1)
    scenes = data.random_scenes(rng, 3)
    images, texts = data.pictures(rng, scenes), data.captions(rng, scenes)
    with torch.inference_mode():
        found = model(input_ids=Tokens(tokenizer)(texts), pixel_values=siglip.normalise(images))
    model.half().save_pretrained(tmp_path / "saved")
    reward = rewards.load("world-siglip", weights={"model": tmp_path / "saved", "tokenizer": tokenizer})
    with torch.inference_mode():
        scores = reward.score(images, texts)
    torch.testing.assert_close(scores, found.logits_per_image.diagonal(), rtol=0.01, atol=0.05)
