"""Scores of world-rule and world-oracle on fixed images: what `RewardInfo.code` stands for.

The digests in `rewards.builtin` are part of the score ids. If a test here fails, scores have changed: set the
digests of the changed files to their new sha256, so that old and new scores are never mixed, and then update
the values here. If only words, comments or names of the code change, the digests stay.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import rewards
from rewards.world.captions import caption
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene, Style

SCENES = (
    Scene((Item("circle", "red", "medium", 32.0, 32.0, 14.5, "centre"),), "white", CLEAN),
    Scene(
        (Item("star", "yellow", "large", 41.0, 22.0, 20.0, "top right"),), "navy", Style(1.0, 0.9, 1.0, 1.0)
    ),
    Scene(
        (Item("ring", "green", "small", 16.0, 47.5, 10.2, "bottom left"),), "sand", Style(0.1, 0.2, 0.3, 0.0)
    ),
    Scene((Item("cross", "cyan", "medium", 17.5, 33.0, 14.0, "left"),), "black", Style(0.6, 0.5, 0.0, 0.4)),
    Scene(
        (
            Item("square", "blue", "small", 15.6, 34.0, 9.8),
            Item("triangle", "pink", "medium", 48.3, 30.0, 14.9),
        ),
        "grey",
        Style(0.4, 0.7, 0.8, 0.6),
        "left of",
    ),
    Scene(
        (Item("ring", "orange", "small", 30.0, 15.5, 10.0), Item("ring", "purple", "small", 34.0, 48.4, 9.6)),
        "black",
        Style(0.0, 0.0, 0.6, 0.2),
        "above",
    ),
)
PROMPTS = (
    "a medium red circle in the centre on a white background",
    "a small yellow star in the top right corner, navy background",
    "a green circle on the left, sand backdrop",
    "a cyan cross to the left of a red ring",
    "a small blue square to the left of a large pink triangle on a grey background",
    "an orange ring below a violet hoop against a black backdrop",
)
RULE = (4.03357, 8.66725, 3.41676, 3.51733, 6.58473, 3.41718)
ORACLE = (1.0, 5 / 6, 3 / 5, 1 / 3, 8 / 9, 6 / 7)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """(6, 3, 64, 64) in [0, 1]."""
    renders = np.stack([render(scene) for scene in SCENES])
    return torch.from_numpy(renders).permute(0, 3, 1, 2).float() / 255


def test_world_rule_gives_the_pinned_scores(images: Tensor) -> None:
    assert rewards.load("world-rule").score(images).tolist() == pytest.approx(RULE, abs=1e-4)


def test_world_oracle_gives_the_pinned_scores(images: Tensor) -> None:
    assert rewards.load("world-oracle").score(images, PROMPTS).tolist() == pytest.approx(ORACLE, abs=1e-6)


def test_many_random_scenes_give_the_pinned_scores() -> None:
    rng = np.random.default_rng(2026)
    scenes = [Scene.random(rng, "train", 0.5, Style.even) for _ in range(300)]
    captions = [caption(rng, scene) for scene in scenes]
    renders = np.stack([render(scene) for scene in scenes])
    images = torch.from_numpy(renders).permute(0, 3, 1, 2).float() / 255
    oracle = rewards.load("world-oracle")
    sums = [
        scores.double().sum().item()
        for scores in (
            rewards.load("world-rule").score(images),
            oracle.score(images, captions),
            oracle.score(images, captions[1:] + captions[:1]),
        )
    ]
    assert sums == pytest.approx([1689.01479, 299.55556, 80.54405], abs=1e-4)
