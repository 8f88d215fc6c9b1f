"""The world's prompt sets, generated from seeds.

Every prompt of "test", the suite `world`, names a reserved combination of shape, colour and background, which
no training caption does. So does every prompt of "sealed" and "third", the suites `world-sealed` and
`world-third`: further held-out sets, for repetitions after results of the first were seen. "train" is for
tuning encoders and calibrating rewards, "validation" for choosing settings and checkpoints. No prompt is in
two splits. None names a style, which is left to prompt engineering and tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from rewards.world.captions import caption, parse_prompt
from rewards.world.scenes import CLEAN, Scene

PromptSplit = Literal["test", "sealed", "third", "validation", "train"]

_HELD_OUT = ("test", "sealed", "third")

_SEEDS: Mapping[PromptSplit, tuple[int, int]] = MappingProxyType(
    {
        "test": (51, 1000),
        "sealed": (54, 1000),
        "third": (55, 1000),
        "validation": (52, 200),
        "train": (53, 2000),
    }
)
"""Seed and number of prompts of each split."""

_EARLIER: Mapping[PromptSplit, tuple[PromptSplit, ...]] = MappingProxyType(
    {"sealed": ("test",), "third": ("test", "sealed"), "train": ("validation",)}
)
"""Split -> the splits whose prompts it must not repeat."""

CATEGORIES = {"object": 0.2, "place": 0.2, "full": 0.2, "relation": 0.2, "sizes": 0.2}
"""Category -> share. All name shape, colour and background of one object, its position too ("place"), and its
size too ("full"); or two objects and their relation, and their sizes too ("sizes").
"""


PAIR_CATEGORIES = ("relation", "sizes")
"""Categories of prompts with two objects."""


@dataclass(frozen=True)
class WorldPrompt:
    """A prompt with its category and split."""

    text: str
    category: str
    split: str


def world_prompts(split: PromptSplit) -> list[WorldPrompt]:
    """Return the prompts of a split, in order and without duplicates."""
    taken = {prompt.text for earlier in _EARLIER.get(split, ()) for prompt in world_prompts(earlier)}
    held_out = split in _HELD_OUT
    seed, count = _SEEDS[split]
    rng = np.random.default_rng(seed)
    prompts: list[WorldPrompt] = []
    for category, share in CATEGORIES.items():
        wanted = len(prompts) + round(share * count)
        while len(prompts) < wanted:
            text = _text(rng, category, "reserved" if held_out else "train")
            if text not in taken and parse_prompt(text).reserved() == held_out:
                taken.add(text)
                prompts.append(WorldPrompt(text, category, split))
    order = rng.permutation(count)
    return [prompts[index] for index in order]


def _text(rng: np.random.Generator, category: str, combinations: Literal["reserved", "train"]) -> str:
    # The style is fixed: prompts stay the same when the looks of training images change.
    scene = Scene.random(rng, combinations, float(category in PAIR_CATEGORIES), lambda _: CLEAN)
    return caption(rng, _say_only(scene, category), style=0.0, detail=1.0)


def _say_only(scene: Scene, category: str) -> Scene:
    """Remove the names that the captions of a category do not mention."""
    named = {
        "object": (),
        "place": ("position",),
        "full": ("size", "position"),
        "relation": (),
        "sizes": ("size",),
    }
    hidden = {field: None for field in ("size", "position") if field not in named[category]}
    return replace(scene, items=tuple(replace(item, **hidden) for item in scene.items))  # type: ignore[arg-type]
