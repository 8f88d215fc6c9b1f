"""The world's prompt sets, generated from seeds.

Every prompt of "test", the suite `world`, names a reserved combination of shape, colour and background, which
no training caption does. "train" is for tuning encoders and calibrating rewards, "validation" for choosing
settings and checkpoints. No prompt is in two splits. None names a style, which is left to prompt engineering
and tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from rewards.world.captions import caption, parse_prompt
from rewards.world.scenes import Scene

PromptSplit = Literal["test", "validation", "train"]

_SEEDS: Mapping[PromptSplit, tuple[tuple[int, int], ...]] = MappingProxyType(
    {"test": ((41, 500), (44, 500)), "validation": ((42, 200),), "train": ((43, 2000),)}
)
"""(seed, prompts) of each part of a split. A split grows by a new part, so that its first prompts stay."""

CATEGORIES = {"object": 0.2, "size": 0.2, "place": 0.2, "full": 0.2, "relation": 0.2}
"""Category -> share. All name shape, colour and background; then size, position, both, or a second object."""


@dataclass(frozen=True)
class WorldPrompt:
    """A prompt with its category and split."""

    text: str
    category: str
    split: str


def world_prompts(split: PromptSplit) -> list[WorldPrompt]:
    """Return the prompts of a split, in order and without duplicates."""
    taken = {prompt.text for prompt in world_prompts("validation")} if split == "train" else set[str]()
    prompts: list[WorldPrompt] = []
    for seed, count in _SEEDS[split]:
        prompts += _part(split, seed, count, taken)
    return prompts


def _part(split: PromptSplit, seed: int, count: int, taken: set[str]) -> list[WorldPrompt]:
    """One part of a split, in random order. Its texts are added to ``taken``."""
    rng = np.random.default_rng(seed)
    prompts: list[WorldPrompt] = []
    for category, share in CATEGORIES.items():
        wanted = len(prompts) + round(share * count)
        while len(prompts) < wanted:
            text = _text(rng, category, "reserved" if split == "test" else "train")
            if text not in taken and parse_prompt(text).reserved() == (split == "test"):
                taken.add(text)
                prompts.append(WorldPrompt(text, category, split))
    order = rng.permutation(count)
    return [prompts[index] for index in order]


def _text(rng: np.random.Generator, category: str, combinations: Literal["reserved", "train"]) -> str:
    scene = Scene.random(rng, combinations, pairs=1.0 if category == "relation" else 0.0)
    return caption(rng, _say_only(scene, category), style=0.0, detail=1.0)


def _say_only(scene: Scene, category: str) -> Scene:
    """Remove the names that the captions of a category do not mention."""
    named = {
        "object": (),
        "size": ("size",),
        "place": ("position",),
        "full": ("size", "position"),
        "relation": (),
    }
    hidden = {field: None for field in ("size", "position") if field not in named[category]}
    return replace(scene, items=tuple(replace(item, **hidden) for item in scene.items))  # type: ignore[arg-type]
