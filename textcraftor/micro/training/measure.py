"""How well the micro pipeline draws.

Its held-out prompts judged by the oracle, plain and with style words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rewards.world.claims import answers
from rewards.world.pixels import to_bytes
from rewards.world.prompts import WorldPrompt
from rewards.world.vision import look
from textcraftor.diffusion.pipeline import load
from textcraftor.diffusion.prompts import initial_latents, noise_seed
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.schedule import Schedule

STEPS = 25
BATCH = 25


@dataclass(frozen=True)
class Drawn:
    """Pictures of some prompts at one setting: uint8 (N, 64, 64, 3), and the oracle's verdict on each."""

    prompts: Sequence[WorldPrompt]
    images: NDArray[np.uint8]
    guidance: float
    words: str

    def claims(self) -> dict[str, float]:
        """Share of claims found true, by kind, and over all of them (key "all")."""
        found: dict[str, list[bool]] = defaultdict(list)
        for image, prompt in zip(self.images, self.prompts, strict=True):
            for answer in answers(look(image), prompt.text):
                found[answer.kind].append(answer.true)
                found["all"].append(answer.true)
        return {kind: float(np.mean(values)) for kind, values in found.items()}

    def all_true(self) -> dict[str, float]:
        """Share of images of which every claim is true.

        By category, and of single-object prompts ("single").
        """
        found: dict[str, list[bool]] = defaultdict(list)
        for image, prompt in zip(self.images, self.prompts, strict=True):
            verdict = all(answer.true for answer in answers(look(image), prompt.text))
            found[prompt.category].append(verdict)
            if prompt.category != "relation":
                found["single"].append(verdict)
        return {category: float(np.mean(values)) for category, values in found.items()}


def render_prompts(
    pipeline: Path,
    prompts: Sequence[WorldPrompt],
    guidance: float,
    words: str = "",
    advance: Callable[[int], None] = lambda count: None,
) -> Drawn:
    """Draw every prompt with ``words`` appended, DDIM 25 steps, noise as the runner's first sample has it."""
    pipe = load(pipeline, device="cpu", dtype="float32", sampler="ddim")
    schedule = Schedule("ddim", STEPS, guidance)
    shape = PipelineRunner(pipe, schedule).latent_shape
    parts = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        noise = initial_latents([noise_seed(0, start + row, 0) for row in range(len(batch))], shape)
        drawn = PipelineRunner(pipe, schedule).generate([prompt.text + words for prompt in batch], noise)
        parts.append(to_bytes(torch.from_numpy(drawn).permute(0, 3, 1, 2)))
        advance(len(batch))
    return Drawn(prompts, np.concatenate(parts), guidance, words)
