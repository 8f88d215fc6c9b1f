"""world-oracle: the share of a prompt's claims that image analysis finds true. A judge, never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.base import Reward
from rewards.world.captions import read
from rewards.world.claims import answers
from rewards.world.pixels import to_bytes
from rewards.world.vision import look


class WorldOracle(Reward):
    """Claims are read from the prompt by the world's grammar; NaN where a prompt claims nothing about it."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = []
        for image, prompt in zip(to_bytes(pixels), prompts, strict=True):
            spec = read(prompt)
            found = answers(look(image), spec) if spec.items or spec.background else []
            scores.append(sum(answer.true for answer in found) / len(found) if found else float("nan"))
        return torch.tensor(scores, dtype=torch.float32, device=pixels.device)
