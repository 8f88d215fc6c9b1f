"""world-siglip: the paper's loss and initial values, in transformers' model."""

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
from rewards.world.training.tokenizer import CaptionTokenizer

PLANS = [
    replace(plan, steps=3, batch=4, warmup=1) for plan in (siglip.VISION_PLAN, siglip.PLAN, siglip.EVEN_PLAN)
]


def test_the_loss_is_equation_1_of_the_paper() -> None:
    """Minus log sigmoid of z x logit over all pairs, z = 1 for true captions, over the number of images."""
    torch.manual_seed(0)
    logits = torch.randn(4, 4)
    matches = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]).float()
    total = 0.0
    for i in range(4):
        for j in range(4):
            z = 1 if matches[i, j] else -1
            total += math.log(1 + math.exp(-z * logits[i, j].item()))
    assert siglip._sigmoid_loss(logits, matches)["loss"].item() == pytest.approx(total / 4, rel=1e-5)


def test_accuracy_is_the_share_of_images_whose_highest_logit_is_of_a_true_caption() -> None:
    matches = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).float()
    logits = 2 * matches - 1
    logits[0, 1] = 3.0  # of a true caption that is not its own
    assert siglip._sigmoid_loss(logits, matches)["accuracy"] == 1
    logits[2, 1] = 2.0
    assert siglip._sigmoid_loss(logits, matches)["accuracy"] == pytest.approx(2 / 3)


def test_initial_temperature_and_bias_are_the_papers(tokenizer: Path) -> None:
    model: Any = siglip._build(CaptionTokenizer(tokenizer))
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert model.logit_bias.item() == -10


def test_normalisation_is_the_registered_profiles_preprocessing() -> None:
    from rewards.preprocess import PROFILES, preprocess

    rng = np.random.default_rng(0)
    images = data.render_batch(data.random_scenes(rng, 2))
    expected = preprocess(images, PROFILES[rewards.info("world-siglip").profile])
    torch.testing.assert_close(siglip._normalise(images), expected)


def test_training_is_reproducible_and_its_folder_gives_the_models_scores(
    tokenizer: Path, build_folder: Path, other_build_folder: Path
) -> None:
    model: Any = siglip.train_siglip(build_folder, *PLANS)
    torch.randn(3)
    for folder in (build_folder, other_build_folder):  # finished, and from the start
        other: Any = siglip.train_siglip(folder, *PLANS)
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    rng = np.random.default_rng(1)
    scenes = data.random_scenes(rng, 3)
    images, texts = data.render_batch(scenes), data.caption_batch(rng, scenes)
    with torch.inference_mode():
        output = model(input_ids=CaptionTokenizer(tokenizer)(texts), pixel_values=siglip._normalise(images))
    files = {"model": build_folder / "world-siglip", "tokenizer": tokenizer}
    reward = rewards.load("world-siglip", weights=files)
    with torch.inference_mode():
        scores = reward.score(images, texts)
    torch.testing.assert_close(scores, output.logits_per_image.diagonal(), rtol=0.01, atol=0.05)
