"""The reward keeps what every reward of tcbench promises, and scores what it says."""

from __future__ import annotations

from PIL import Image

import rewards
from rewards.verification import contract


def test_it_keeps_the_contract() -> None:
    """Shapes, ranges, gradients, batches, odd prompts, precision: one call."""
    contract.check(rewards.load("warmth"))


def test_red_is_warm_and_blue_is_cold() -> None:
    """A picture of one colour scores that colour."""
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "grey", "blue")]
    assert rewards.score("warmth", images).tolist() == [1, 0, -1]
