"""Shares of true claims and images, on an image with known content."""

from __future__ import annotations

import numpy as np
import pytest

from rewards.world.prompts import WorldPrompt
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene
from textcraftor.micro.training.measure import PromptImages

RED_CIRCLE = Scene((Item("circle", "red", "large", 32, 32, 20.5, "centre"),), "white", CLEAN)


def test_true_claims_and_images_are_counted() -> None:
    texts = {
        "a red circle on a white background": "object",
        "a blue circle on a white background": "object",
        "a red circle above a blue star": "relation",
        "a large red circle above a small blue star": "sizes",
    }
    prompts = [WorldPrompt(text, category, "test") for text, category in texts.items()]
    sampled = PromptImages(prompts, np.stack([render(RED_CIRCLE)] * 4))
    assert sampled.true_images() == {"object": 0.5, "single": 0.5, "relation": 0.0, "sizes": 0.0}
    claims = sampled.true_claims()
    assert claims["background"] == 1.0
    assert claims["object"] == pytest.approx(4 / 6)  # the star is missing
    assert claims["colour"] == pytest.approx(3 / 6)
    assert claims["size"] == pytest.approx(1 / 2)
    assert claims["count"] == pytest.approx(2 / 4)
    assert claims["all"] == pytest.approx((4 + 3 + 2 + 3) / (4 + 4 + 6 + 8))
