"""What is counted of drawn pictures, checked on pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from rewards.world.prompts import WorldPrompt
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene
from textcraftor.micro.training.measure import Drawn

RED_CIRCLE = Scene((Item("circle", "red", "large", 32, 32, 20.5, "centre"),), "white", CLEAN)


def test_claims_and_whole_pictures_are_counted() -> None:
    texts = {
        "a red circle on a white background": "object",
        "a blue circle on a white background": "object",
        "a red circle above a blue star": "relation",
    }
    prompts = [WorldPrompt(text, category, "test") for text, category in texts.items()]
    drawn = Drawn(prompts, np.stack([render(RED_CIRCLE)] * 3), guidance=3.0, words="")
    assert drawn.all_true() == {"object": 0.5, "single": 0.5, "relation": 0.0}
    claims = drawn.claims()
    assert claims["background"] == 1.0
    assert claims["object"] == pytest.approx(3 / 4)  # the star is missing
    assert claims["colour"] == pytest.approx(2 / 4)
    assert claims["count"] == pytest.approx(2 / 3)
    assert claims["all"] == pytest.approx((4 + 3 + 2) / (4 + 4 + 6))
