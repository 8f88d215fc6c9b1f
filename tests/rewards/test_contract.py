"""Every registered reward keeps the contract, on tiny random weights of its architecture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

import rewards
from rewards.base import Reward
from rewards.verification.case import Case
from rewards.verification.contract import CHECKS
from rewards.verification.samples import PROMPTS, blobs
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene

ROOT = Path(__file__).resolve().parents[2]
NAMES = rewards.list()

Tiny = Callable[[str], Reward]


@pytest.fixture(scope="module")
def case(tiny: Tiny) -> Callable[[str], Case]:
    """Test case of a reward; its scores are shared by all checks."""
    return cache(
        lambda name: Case(tiny(name), oracle_images() if name == "world-oracle" else blobs(3), PROMPTS)
    )


def oracle_images() -> list[Image.Image]:
    """Images for the oracle: one that matches the first prompt, one that matches none, and blobs."""
    items = (Item("circle", "red", "large", 32, 32, 20), Item("square", "green", "small", 20, 20, 8))
    images = [Image.fromarray(render(Scene((item,), "white", CLEAN))) for item in items]
    return [*images, *blobs(1, 64, 64)]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_reward_keeps_the_contract(case: Callable[[str], Case], name: str, check: str) -> None:
    CHECKS[check](case(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_record_has_paper_citation_scale_and_licence(name: str) -> None:
    record = rewards.info(name)
    assert record.paper.startswith("https://") or (ROOT / record.paper).is_file()
    assert all((record.citation, record.scale, record.licence, record.entry))
    assert record.family != "custom"
