"""The world's own prompt sets: what the suite `world` asks for, drawn once from a seed.

Every prompt of the test split names a reserved combination (shape, colour, background), so no training
caption says what it says; the others name none: on "train" encoders are tuned and rewards calibrated, on
"validation" settings and checkpoints are chosen. No prompt is in two splits, and none speaks of style: that
is what prompt engineering and tuning are to bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from rewards.world.captions import caption, read
from rewards.world.scenes import Scene, random_scene

Split = Literal["test", "validation", "train"]

DRAWS: Mapping[Split, tuple[tuple[int, int], ...]] = MappingProxyType(
    {"test": ((41, 500), (44, 500)), "validation": ((42, 200),), "train": ((43, 2000),)}
)
"""(seed, prompts) of each draw that a split is made of; a later draw leaves the earlier ones as they are."""

CATEGORIES = {"object": 0.2, "size": 0.2, "place": 0.2, "full": 0.2, "relation": 0.2}
"""Category -> share. Each names shape, colour and background; then size, place, both, or a second object."""


@dataclass(frozen=True)
class WorldPrompt:
    """A prompt, what kind it is, and its split."""

    text: str
    category: str
    split: str


def world_prompts(split: Split) -> list[WorldPrompt]:
    """The prompts of a split, in order, no two alike."""
    taken = {prompt.text for prompt in world_prompts("validation")} if split == "train" else set[str]()
    prompts: list[WorldPrompt] = []
    for seed, count in DRAWS[split]:
        prompts += _drawn(split, seed, count, taken)
    return prompts


def _drawn(split: Split, seed: int, count: int, taken: set[str]) -> list[WorldPrompt]:
    """One draw, in random order; its texts are put among those that are ``taken``."""
    rng = np.random.default_rng(seed)
    prompts: list[WorldPrompt] = []
    for category, share in CATEGORIES.items():
        wanted = len(prompts) + round(share * count)
        while len(prompts) < wanted:
            text = _text(rng, category, "reserved" if split == "test" else "train")
            if text not in taken and read(text).reserved() == (split == "test"):
                taken.add(text)
                prompts.append(WorldPrompt(text, category, split))
    order = rng.permutation(count)
    return [prompts[index] for index in order]


def _text(rng: np.random.Generator, category: str, combinations: Literal["reserved", "train"]) -> str:
    scene = random_scene(rng, combinations, pairs=1.0 if category == "relation" else 0.0)
    return caption(rng, _say_only(scene, category), style=0.0, detail=1.0)


def _say_only(scene: Scene, category: str) -> Scene:
    """The scene without the names that a category leaves unsaid."""
    keeps = {
        "object": (),
        "size": ("size",),
        "place": ("position",),
        "full": ("size", "position"),
        "relation": (),
    }
    hidden = {field: None for field in ("size", "position") if field not in keeps[category]}
    return replace(scene, items=tuple(replace(item, **hidden) for item in scene.items))  # type: ignore[arg-type]
