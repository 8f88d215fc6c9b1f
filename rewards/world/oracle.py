"""world-oracle: share of a prompt's claims that image analysis finds true. A judge, so never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.base import Reward
from rewards.preprocess import to_bytes
from rewards.world.captions import parse_prompt
from rewards.world.claims import check_claims
from rewards.world.vision import detect_objects


class WorldOracle(Reward):
    """Share of true claims in [0, 1]; NaN for a prompt that claims nothing about the world."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = []
        for image, prompt in zip(to_bytes(pixels), prompts, strict=True):
            spec = parse_prompt(prompt)
            claims = check_claims(detect_objects(image), spec) if spec.items or spec.background else []
            scores.append(sum(claim.true for claim in claims) / len(claims) if claims else float("nan"))
        return torch.tensor(scores, dtype=torch.float32, device=pixels.device)
