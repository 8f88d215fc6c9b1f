"""world-rule: the world's aesthetic rule as a reward. A judge, so never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.base import Reward
from rewards.preprocess import to_bytes
from rewards.world.aesthetics import AestheticParts


class WorldRule(Reward):
    """Score in [1, 10] of `rewards.world.aesthetics`. Prompts are ignored."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = [AestheticParts.measure(image).score for image in to_bytes(pixels)]
        return torch.tensor(scores, dtype=torch.float32, device=pixels.device)
