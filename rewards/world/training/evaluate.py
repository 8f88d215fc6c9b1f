"""How good the oracle and the world's rewards are, measured against the renderer's own truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from rewards.base import Reward
from rewards.world.captions import ItemSpec, Spec
from rewards.world.claims import answers
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Scene, random_scene
from rewards.world.training import data
from rewards.world.training.preferences import BLIP_RATER, HPS_RATER, PICK_RATER, Rater, comparisons
from rewards.world.vision import look

RATERS: dict[str, Rater] = {"world-pick": PICK_RATER, "world-hps": HPS_RATER, "world-blip": BLIP_RATER}


@dataclass(frozen=True)
class OracleReport:
    """Rates by claim kind and overall (key "all"); accepted true claims by decile of rendering quality."""

    accepted_true: dict[str, float]
    accepted_swapped: dict[str, float]
    by_quality_decile: list[float]
    confusions: dict[str, int]


def full_spec(scene: Scene) -> Spec:
    """Everything that is true of a scene, as a prompt would claim it."""
    items = tuple(ItemSpec(i.shape, i.colour, i.size, i.position) for i in scene.items)
    return Spec(items, scene.background, scene.relation)


def oracle(count: int, seed: int, clean: bool) -> OracleReport:
    """Ask the oracle every true claim of ``count`` renders, and one swapped claim each.

    ``clean`` renders all in the reference style, else styles are drawn as in training.
    """
    rng = np.random.default_rng(seed)
    true: dict[str, list[bool]] = defaultdict(list)
    swapped: dict[str, list[bool]] = defaultdict(list)
    confusions: dict[str, int] = defaultdict(int)
    quality, share = np.zeros(count), np.zeros(count)
    for row in range(count):
        scene = random_scene(rng, "any")
        scene = replace(scene, style=CLEAN) if clean else scene
        sight = look(render(scene, int(rng.integers(2**31))))
        found = answers(sight, full_spec(scene))
        for answer in found:
            true[answer.kind].append(answer.true)
            true["all"].append(answer.true)
        claimed = {(answer.kind, answer.claim) for answer in found}
        for answer in answers(sight, full_spec(data.near_miss(rng, scene))):
            if (answer.kind, answer.claim) not in claimed:
                swapped[answer.kind].append(answer.true)
                swapped["all"].append(answer.true)
        if len(scene.items) == len(sight.objects) == 1:
            item, seen = scene.items[0], sight.objects[0]
            for kind in ("shape", "colour", "size", "position"):
                if getattr(item, kind) != getattr(seen, kind):
                    confusions[f"{kind}: {getattr(item, kind)} seen as {getattr(seen, kind)}"] += 1
        quality[row], share[row] = scene.style.quality, np.mean([answer.true for answer in found])
    deciles = np.array_split(share[np.argsort(quality)], 10)
    return OracleReport(
        {kind: float(np.mean(values)) for kind, values in true.items()},
        {kind: float(np.mean(values)) for kind, values in swapped.items()},
        [float(part.mean()) for part in deciles],
        dict(sorted(confusions.items(), key=lambda entry: -entry[1])),
    )


def alignment(reward: Reward, count: int, seed: int, *, retrieved: int = 100) -> dict[str, float]:
    """Accuracy of an alignment reward on fresh renders with full captions.

    ``near_miss``: share where the right caption beats one with a single attribute swapped, and the same under
    each attribute's name; ``picture``: share where the right picture beats one with an attribute swapped, in
    the same style, so that quality cannot decide; ``retrieval``: share of the first images whose own caption
    is the best of theirs, of ``retrieved`` (0: left out, for it needs their square of scores).
    """
    rng = np.random.default_rng(seed)
    scenes = data.random_scenes(rng, count)
    images = data.pictures(rng, scenes)
    right = data.captions(rng, scenes, detail=1.0)
    swapped = np.array([rng.choice([name for _, name in data.stated(scene)]) for scene in scenes])
    misses = [data.near_miss(rng, s, of=(name,)) for s, name in zip(scenes, swapped, strict=True)]
    wrong = data.captions(rng, misses, detail=1.0)
    better = _score(reward, images, right) > _score(reward, images, wrong)
    found = {str(name): float(better[swapped == name].mean()) for name in np.unique(swapped)}
    right_picture = _score(reward, images, right) > _score(reward, data.pictures(rng, misses), right)
    found |= {"near_miss": float(better.mean()), "picture": float(right_picture.mean())}
    if retrieved:
        first, texts = images[:retrieved], right[:retrieved]
        table = np.stack([_score(reward, image.expand(retrieved, -1, -1, -1), texts) for image in first])
        found["retrieval"] = float((table.argmax(1) == np.arange(retrieved)).mean())
    return found


def preference(reward: Reward, rater: Rater, count: int, seed: int) -> dict[str, float]:
    """Share of a rater's fresh comparisons that a reward ranks as the rater would, noise-free."""
    batch = comparisons(np.random.default_rng(seed), count, rater)
    texts = [text for text in batch.texts for _ in range(2)]
    scores = _score(reward, batch.images.flatten(0, 1), texts).reshape(-1, 2)
    right = (scores[:, 0] > scores[:, 1]) == (batch.first.numpy() > 0.5)
    return {"pairs": float(right.mean())}


def correlation(reward: Reward, rule: Reward, count: int, seed: int) -> dict[str, float]:
    """Pearson correlation of a reward with the world's rule on fresh renders."""
    rng = np.random.default_rng(seed)
    scenes = data.random_scenes(rng, count)
    images, texts = data.pictures(rng, scenes), data.captions(rng, scenes)
    pair = np.corrcoef(_score(reward, images, texts), _score(rule, images, texts))
    return {"pearson_with_rule": float(pair[0, 1])}


def _score(
    reward: Reward, images: torch.Tensor, prompts: Sequence[str], batch: int = 100
) -> NDArray[np.float64]:
    with torch.inference_mode():
        parts = [
            reward.score(images[start : start + batch], prompts[start : start + batch])
            for start in range(0, len(images), batch)
        ]
    return torch.cat(parts).double().numpy()
