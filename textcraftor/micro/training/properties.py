"""Properties of the embedded world that a comparison of methods needs, measured (docs/world/card.md).

Pictures are rendered scenes as the pipeline's VAE decodes them, so they show what can be generated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards.base import Reward
from rewards.preprocess import to_bytes
from rewards.world.captions import Spec, parse_prompt
from rewards.world.claims import check_claims
from rewards.world.prompts import PAIR_CATEGORIES, WorldPrompt
from rewards.world.scenes import Scene, Style
from rewards.world.training import data
from rewards.world.training.evaluate import score_batches
from rewards.world.vision import detect_objects

MIDDLING, BEST = Style(0.5, 0.5, 0.5, 0.5), Style(1.0, 1.0, 1.0, 1.0)
"""Styles between which properties are measured."""


class Decoded:
    """Renders scenes and passes them through a VAE.

    Args:
        vae: diffusers' AutoencoderKL in float32.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    @classmethod
    def of_pipeline(cls, folder: Path) -> Decoded:
        """Load the VAE of a pipeline's folder."""
        from diffusers import AutoencoderKL

        return cls(AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval())

    def render(self, scenes: Sequence[Scene], batch: int = 50) -> Tensor:
        """Return images (B, 3, 64, 64) in [0, 1] after encoding and decoding, as 8-bit levels."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(scenes), batch):
                images = data.render_batch(list(scenes[start : start + batch]))
                latents = self._vae.encode(images * 2 - 1).latent_dist.mean
                decoded = (self._vae.decode(latents).sample + 1) / 2
                parts.append((decoded.clamp(0, 1) * 255).round() / 255)
        return torch.cat(parts)

    def ceiling(self, style: Style, count: int, seed: int = 201) -> _Accuracy:
        """Measure true pictures of random scenes through the VAE, by shape and size of single objects.

        Args:
            style: Style of all scenes.
            count: Number of scenes.
            seed: Seed of the scenes.
        """
        rng = np.random.default_rng(seed)
        scenes = data.random_scenes(rng, count, "any", looks=lambda _: style)
        groups = [
            [f"{scene.items[0].size} {scene.items[0].shape}"] if len(scene.items) == 1 else ["two objects"]
            for scene in scenes
        ]
        return _Accuracy.of(self.render(scenes), [Spec.of(scene) for scene in scenes], groups)

    def looks(
        self, rewards: Mapping[str, Reward], count: int, seed: int = 203
    ) -> dict[str, dict[str, float]]:
        """Return reward -> axis -> mean change of the reward when that axis alone goes from 0 to 1.

        Args:
            rewards: Rewards by name.
            count: Number of scenes; their other axes are random.
            seed: Seed of the scenes.
        """
        rng = np.random.default_rng(seed)
        scenes = data.random_scenes(rng, count, looks=Style.even)
        texts = data.caption_batch(rng, scenes, style=0.0, detail=1.0)
        changes: dict[str, dict[str, float]] = {name: {} for name in rewards}
        for axis in (field.name for field in fields(Style)):
            low, high = (
                self.render([replace(s, style=replace(s.style, **{axis: value})) for s in scenes])
                for value in (0.0, 1.0)
            )
            for name, reward in rewards.items():
                change = score_batches(reward, high, texts) - score_batches(reward, low, texts)
                changes[name][axis] = float(change.mean())
        return changes

    def neutrality(self, rewards: Mapping[str, Reward], count: int, seed: int = 204) -> dict[str, float]:
        """Return reward -> paired change from middling to best style under the plain true caption.

        The unit is the standard deviation of the reward over right captions of middling pictures.
        """
        rng = np.random.default_rng(seed)
        scenes = data.random_scenes(rng, count)
        texts = data.caption_batch(rng, scenes, style=0.0)
        middling, best = (
            self.render([replace(scene, style=style) for scene in scenes]) for style in (MIDDLING, BEST)
        )
        changes = {}
        for name, reward in rewards.items():
            before = score_batches(reward, middling, texts)
            changes[name] = float((score_batches(reward, best, texts) - before).mean() / before.std())
        return changes

    def near_misses(
        self, rewards: Mapping[str, Reward], count: int, seed: int = 205
    ) -> dict[str, dict[str, float]]:
        """Return reward -> kind of error -> share of pictures whose right caption beats a near miss.

        Args:
            rewards: Rewards by name.
            count: Number of pictures of each kind of error.
            seed: Seed of the scenes.
        """
        rng = np.random.default_rng(seed)
        shares: dict[str, dict[str, float]] = {name: {} for name in rewards}
        for kind in data.MISSES:
            scenes: list[Scene] = []
            while len(scenes) < count:
                drawn = data.random_scenes(rng, count, pairs=0.5)
                scenes += [scene for scene in drawn if data.can_miss(scene, kind)]
            scenes = scenes[:count]
            images = self.render(scenes)
            misses = [data.near_miss(rng, scene, of=(kind,)) for scene in scenes]
            right, wrong = (data.caption_batch(rng, each, style=0.0, detail=1.0) for each in (scenes, misses))
            for name, reward in rewards.items():
                better = score_batches(reward, images, right) > score_batches(reward, images, wrong)
                shares[name][kind] = float(better.mean())
        return shares


@dataclass(frozen=True)
class _Accuracy:
    """Claims of prompts that image analysis finds true."""

    claims: float
    """Share of true claims."""
    all_true: float
    """Share of images of which all claims are true."""
    groups: Mapping[str, tuple[float, float, int]]
    """Group -> shares of true claims and of all-true images, and number of images."""

    @classmethod
    def of(cls, images: Tensor, claimed: Sequence[str | Spec], groups: Sequence[Sequence[str]]) -> _Accuracy:
        """Measure images (B, 3, 64, 64) against what is claimed of them; each is in some groups."""
        claims: dict[str, list[bool]] = defaultdict(list)
        whole: dict[str, list[bool]] = defaultdict(list)
        for image, claim, names in zip(to_bytes(images), claimed, groups, strict=True):
            true = [one.true for one in check_claims(detect_objects(image), claim)]
            for name in ("", *names):
                claims[name] += true
                whole[name].append(all(true))
        table = {
            name: (float(np.mean(claims[name])), float(np.mean(whole[name])), len(whole[name]))
            for name in claims
        }
        everything = table.pop("")
        return cls(everything[0], everything[1], table)


def true_scenes(prompts: Sequence[WorldPrompt], style: Style, seed: int = 202) -> list[Scene]:
    """Return a random scene of each prompt, of which all its claims are true, in a given style."""
    rng = np.random.default_rng(seed)
    return [replace(parse_prompt(prompt.text).random_scene(rng), style=style) for prompt in prompts]


@dataclass(frozen=True)
class _WithinPrompt:
    """Agreement of a reward with the oracle over several images of a prompt."""

    correlation: float
    """Mean over prompts of the correlation within a prompt."""
    prompts: int
    """Prompts whose images have different oracle scores; only these count."""
    best: float
    """Mean oracle score of the images that the reward ranks first."""


def measure_within_prompts(
    images: Sequence[Tensor], prompts: Sequence[WorldPrompt], rewards: Mapping[str, Reward], oracle: Reward
) -> tuple[dict[str, _WithinPrompt], float]:
    """Measure how rewards rank images of the same prompt, and return this and the mean oracle score.

    Args:
        images: For each try the images (P, 3, 64, 64) of all prompts.
        prompts: The P prompts.
        rewards: Rewards by name.
        oracle: The judge of claims.
    """
    texts = [prompt.text for prompt in prompts]
    true = np.stack([score_batches(oracle, tries, texts) for tries in images])  # (tries, P)
    differ = true.std(axis=0) > 0
    results = {}
    for name, reward in rewards.items():
        scores = np.stack([score_batches(reward, tries, texts) for tries in images])
        ranked = float(true[scores.argmax(axis=0), np.arange(len(prompts))].mean())
        # A reward that gives all images of a prompt the same score says nothing about them: 0.
        pairs = [
            np.corrcoef(scores[:, p], true[:, p])[0, 1] if scores[:, p].std() > 0 else 0.0
            for p in np.flatnonzero(differ)
        ]
        results[name] = _WithinPrompt(float(np.mean(pairs)), int(differ.sum()), ranked)
    return results, float(true.mean())


def style_share(changes: Mapping[str, float]) -> float:
    """Return the smallest change of any axis as a share of the largest; 0 if no axis raises the reward."""
    largest = max(changes.values())
    return min(changes.values()) / largest if largest > 0 else 0.0


def by_category(images: Tensor, prompts: Sequence[WorldPrompt]) -> _Accuracy:
    """Measure images of prompts, by category and by the number of objects."""
    groups = [
        [prompt.category, "two objects" if prompt.category in PAIR_CATEGORIES else "one object"]
        for prompt in prompts
    ]
    return _Accuracy.of(images, [prompt.text for prompt in prompts], groups)
