"""Accuracy of the micro pipeline: which claims of prompts are true of the sampled images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPTextModel

from rewards.preprocess import to_bytes
from rewards.world.claims import check_claims
from rewards.world.prompts import PAIR_CATEGORIES, WorldPrompt, world_prompts
from rewards.world.vision import detect_objects
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prompts import initial_latents, noise_seed
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.schedule import Schedule

STEPS = 25
BATCH = 25


@dataclass(frozen=True)
class PromptImages:
    """Images of prompts."""

    prompts: Sequence[WorldPrompt]
    images: NDArray[np.uint8]
    """(N, 64, 64, 3), one image per prompt."""

    @property
    def pixels(self) -> torch.Tensor:
        """The images, float (N, 3, 64, 64) in [0, 1]."""
        return torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 255

    def true_claims(self) -> dict[str, float]:
        """Return the share of true claims by kind, and over all claims (key "all")."""
        true: dict[str, list[bool]] = defaultdict(list)
        for image, prompt in zip(self.images, self.prompts, strict=True):
            for claim in check_claims(detect_objects(image), prompt.text):
                true[claim.kind].append(claim.true)
                true["all"].append(claim.true)
        return {kind: float(np.mean(values)) for kind, values in true.items()}

    def true_images(self) -> dict[str, float]:
        """Return the share of images of which all claims are true, by prompt category.

        The key "single" is for all prompts with a single object.
        """
        true: dict[str, list[bool]] = defaultdict(list)
        for image, prompt in zip(self.images, self.prompts, strict=True):
            all_true = all(claim.true for claim in check_claims(detect_objects(image), prompt.text))
            true[prompt.category].append(all_true)
            if prompt.category not in PAIR_CATEGORIES:
                true["single"].append(all_true)
        return {category: float(np.mean(values)) for category, values in true.items()}


def _sample_prompts(
    pipeline: Path,
    prompts: Sequence[WorldPrompt],
    guidance: float,
    words: str = "",
    *,
    sample: int = 0,
    text_encoder: CLIPTextModel | None = None,
) -> PromptImages:
    """Sample an image of each prompt with 25 steps of DDIM and the noise of a run's sample.

    Args:
        pipeline: Folder of the pipeline.
        prompts: The prompts.
        guidance: Guidance scale.
        words: Text that is appended to each prompt.
        sample: Index of the sample, which has its own noise.
        text_encoder: Text encoder that replaces the pipeline's.
    """
    pipe = load_pipeline(pipeline, device="cpu", dtype="float32", sampler="ddim")
    if text_encoder is not None:
        pipe.text_encoder = text_encoder
    runner = PipelineRunner(pipe, Schedule("ddim", STEPS, guidance))
    parts = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        noise = initial_latents(
            [noise_seed(0, start + row, sample) for row in range(len(batch))], runner.latent_shape
        )
        images = runner.generate([prompt.text + words for prompt in batch], noise)
        parts.append(to_bytes(torch.from_numpy(images).permute(0, 3, 1, 2)))
    return PromptImages(prompts, np.concatenate(parts))


class ValidationSamples:
    """Samples of the validation prompts, each of them generated once.

    Args:
        pipeline: Folder of the pipeline.
    """

    def __init__(self, pipeline: Path) -> None:
        self.pipeline, self.prompts = pipeline, world_prompts("validation")
        self._known: dict[tuple[float, str, int, bool], PromptImages] = {}

    def get(
        self, guidance: float, words: str = "", *, sample: int = 0, text_encoder: CLIPTextModel | None = None
    ) -> PromptImages:
        """Return what `_sample_prompts` does. There can be one ``text_encoder`` beside the pipeline's."""
        key = (guidance, words, sample, text_encoder is not None)
        if key not in self._known:
            self._known[key] = _sample_prompts(
                self.pipeline, self.prompts, guidance, words, sample=sample, text_encoder=text_encoder
            )
        return self._known[key]
