"""The world's own prompt sets: what the suite `world` asks for, drawn once from a seed.

Every prompt of the test split names a reserved combination (shape, colour, background), so no training
caption says what it says; the validation split, for choosing settings and checkpoints, names none. No
prompt speaks of style: that is what prompt engineering and tuning are to bring.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rewards.world.captions import caption, read
from rewards.world.scenes import Scene, random_scene

COUNTS = {"test": 500, "validation": 200}
SEEDS = {"test": 41, "validation": 42}

CATEGORIES = {"object": 0.2, "size": 0.2, "place": 0.2, "full": 0.2, "relation": 0.2}
"""Category -> share. Each names shape, colour and background; then size, place, both, or a second object."""


@dataclass(frozen=True)
class WorldPrompt:
    """A prompt, what kind it is, and its split."""

    text: str
    category: str
    split: str


def world_prompts(split: Literal["test", "validation"]) -> list[WorldPrompt]:
    """The prompts of a split, in order, no two alike."""
    rng = np.random.default_rng(SEEDS[split])
    count, texts = COUNTS[split], set[str]()
    prompts: list[WorldPrompt] = []
    for category, share in CATEGORIES.items():
        wanted = len(prompts) + round(share * count)
        while len(prompts) < wanted:
            text = _text(rng, category, "reserved" if split == "test" else "train")
            if text not in texts and read(text).reserved() == (split == "test"):
                texts.add(text)
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
