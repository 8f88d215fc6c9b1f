"""The reward keeps the contract of tcbench rewards and scores warm colours higher."""

from __future__ import annotations

from PIL import Image

import rewards
from rewards.verification import contract


def test_contract() -> None:
    """Check shapes, ranges, gradients, batches, unusual prompts and precision in one call."""
    contract.check(rewards.load("warmth"))


def test_red_scores_higher_than_grey_and_blue() -> None:
    """An image of one colour scores that colour."""
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "grey", "blue")]
    assert rewards.score("warmth", images).tolist() == [1, 0, -1]
