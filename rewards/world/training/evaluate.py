"""Accuracy of the oracle and of the world's rewards, measured against rendered scenes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from rewards.base import Reward
from rewards.world.captions import Spec
from rewards.world.claims import check_claims
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Scene
from rewards.world.training import data
from rewards.world.training.preferences import BLIP_RATER, HPS_RATER, PICK_RATER, Rater
from rewards.world.vision import detect_objects

RATERS: dict[str, Rater] = {"world-pick": PICK_RATER, "world-hps": HPS_RATER, "world-blip": BLIP_RATER}


@dataclass(frozen=True)
class _OracleAccuracy:
    """Result of `measure_oracle`."""

    accepted_true: dict[str, float]
    """Share of true claims that are accepted, by kind and overall (key "all")."""
    accepted_swapped: dict[str, float]
    """Share of false claims that are accepted, by kind and overall (key "all")."""
    by_quality_decile: list[float]
    """Share of true claims that are accepted, by decile of rendering quality."""
    confusions: dict[str, int]
    """Number of wrongly named attributes of single objects, by names, most frequent first."""


def measure_oracle(count: int, seed: int, clean: bool) -> _OracleAccuracy:
    """Check every true claim of random scenes and one false claim each.

    Args:
        count: Number of scenes.
        seed: Seed of the scenes.
        clean: Render all in the reference style; else in styles as in training.
    """
    rng = np.random.default_rng(seed)
    true: dict[str, list[bool]] = defaultdict(list)
    swapped: dict[str, list[bool]] = defaultdict(list)
    confusions: dict[str, int] = defaultdict(int)
    quality, share = np.zeros(count), np.zeros(count)
    for row in range(count):
        scene = Scene.random(rng, "any")
        scene = replace(scene, style=CLEAN) if clean else scene
        detection = detect_objects(render(scene))
        claims = check_claims(detection, Spec.of(scene))
        for claim in claims:
            true[claim.kind].append(claim.true)
            true["all"].append(claim.true)
        true_claims = {(claim.kind, claim.claim) for claim in claims}
        for claim in check_claims(detection, Spec.of(data.near_miss(rng, scene))):
            if (claim.kind, claim.claim) not in true_claims:
                swapped[claim.kind].append(claim.true)
                swapped["all"].append(claim.true)
        if len(scene.items) == len(detection.objects) == 1:
            item, detected = scene.items[0], detection.objects[0]
            for kind in ("shape", "colour", "size", "position"):
                if getattr(item, kind) != getattr(detected, kind):
                    confusions[f"{kind}: {getattr(item, kind)} seen as {getattr(detected, kind)}"] += 1
        quality[row], share[row] = scene.style.quality, np.mean([claim.true for claim in claims])
    deciles = np.array_split(share[np.argsort(quality)], 10)
    return _OracleAccuracy(
        {kind: float(np.mean(values)) for kind, values in true.items()},
        {kind: float(np.mean(values)) for kind, values in swapped.items()},
        [float(part.mean()) for part in deciles],
        dict(sorted(confusions.items(), key=lambda entry: -entry[1])),
    )


def measure_alignment(reward: Reward, count: int, seed: int, *, retrieved: int = 100) -> dict[str, float]:
    """Measure how well a reward tells right captions from wrong ones, on new renders with full captions.

    Args:
        reward: The reward.
        count: Number of scenes.
        seed: Seed of the scenes.
        retrieved: Images and captions of the retrieval task, which needs the square of scores; 0 skips it.

    Returns:
        ``near_miss``: share of images for which the true caption scores higher than one with an attribute
        swapped; under each attribute's name the same share for that attribute. ``picture``: share of captions
        for which the true image scores higher than one with an attribute swapped, in the same style, so that
        quality cannot decide. ``retrieval``: share of images whose own caption has the highest score.
    """
    rng = np.random.default_rng(seed)
    scenes = data.random_scenes(rng, count)
    images = data.render_batch(scenes)
    right = data.caption_batch(rng, scenes, detail=1.0)
    swapped = np.array([rng.choice([name for _, name in scene.stated_attributes()]) for scene in scenes])
    misses = [data.near_miss(rng, s, of=(name,)) for s, name in zip(scenes, swapped, strict=True)]
    wrong = data.caption_batch(rng, misses, detail=1.0)
    own = score_batches(reward, images, right)
    better = own > score_batches(reward, images, wrong)
    shares = {str(name): float(better[swapped == name].mean()) for name in np.unique(swapped)}
    right_image = own > score_batches(reward, data.render_batch(misses), right)
    shares |= {"near_miss": float(better.mean()), "picture": float(right_image.mean())}
    if retrieved:
        first, texts = images[:retrieved], right[:retrieved]
        table = np.stack(
            [score_batches(reward, image.expand(retrieved, -1, -1, -1), texts) for image in first]
        )
        shares["retrieval"] = float((table.argmax(1) == np.arange(retrieved)).mean())
    return shares


def measure_preference(reward: Reward, rater: Rater, count: int, seed: int) -> dict[str, float]:
    """Return as "pairs" the share of new comparisons in which a reward agrees with the rater."""
    batch = rater.compare(np.random.default_rng(seed), count)
    texts = [text for text in batch.texts for _ in range(2)]
    scores = score_batches(reward, batch.images.flatten(0, 1), texts).reshape(-1, 2)
    right = (scores[:, 0] > scores[:, 1]) == (batch.first.numpy() > 0.5)
    return {"pairs": float(right.mean())}


def measure_correlation(reward: Reward, rule: Reward, count: int, seed: int) -> dict[str, float]:
    """Return as "pearson_with_rule" the correlation of a reward with world-rule on new renders."""
    rng = np.random.default_rng(seed)
    scenes = data.random_scenes(rng, count)
    images, texts = data.render_batch(scenes), data.caption_batch(rng, scenes)
    pair = np.corrcoef(score_batches(reward, images, texts), score_batches(rule, images, texts))
    return {"pearson_with_rule": float(pair[0, 1])}


def score_batches(
    reward: Reward, images: torch.Tensor, prompts: Sequence[str], batch: int = 100
) -> NDArray[np.float64]:
    """Score images (B, 3, H, W) with their prompts in batches, (B,)."""
    with torch.inference_mode():
        parts = [
            reward.score(images[start : start + batch], prompts[start : start + batch])
            for start in range(0, len(images), batch)
        ]
    return torch.cat(parts).double().numpy()
