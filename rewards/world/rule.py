"""world-rule: the world's procedural aesthetic as a reward. A judge, never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.base import Reward
from rewards.world.aesthetics import judge
from rewards.world.pixels import to_bytes


class WorldRule(Reward):
    """See :mod:`rewards.world.aesthetics`; prompts are ignored."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = [judge(image).score for image in to_bytes(pixels)]
        return torch.tensor(scores, dtype=torch.float32, device=pixels.device)
