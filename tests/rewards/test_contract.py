"""What holds for every registered reward, on tiny random weights of its own architecture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

import rewards
from rewards.base import Reward
from rewards.verification.case import Case
from rewards.verification.contract import CHECKS, Check
from rewards.verification.samples import PROMPTS, blobs
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene

ROOT = Path(__file__).resolve().parents[2]
NAMES = rewards.list()

Tiny = Callable[[str], Reward]


@pytest.fixture(scope="module")
def case(tiny: Tiny) -> Callable[[str], Case]:
    """A reward with the pictures and prompts of all checks, and what it scored them."""
    return cache(lambda name: Case(tiny(name), drawn() if name == "world-oracle" else blobs(3), PROMPTS))


def drawn() -> list[Image.Image]:
    """What the oracle can judge: a picture for the first prompt and one for none, and blobs."""
    shown = (Item("circle", "red", "large", 32, 32, 20), Item("square", "green", "small", 20, 20, 8))
    images = [Image.fromarray(render(Scene((item,), "white", CLEAN))) for item in shown]
    return [*images, *blobs(1, 64, 64)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_the_contract(case: Callable[[str], Case], name: str, check: Check) -> None:
    check(case(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_record_says_whose_work_it_is(name: str) -> None:
    record = rewards.info(name)
    assert record.paper.startswith("https://") or (ROOT / record.paper).is_file()
    assert all((record.citation, record.scale, record.licence, record.entry))
    assert record.family != "custom"
