"""How well a picture compresses: the rewards with which DDPO showed that any of them can be maximised.

Black et al. 2023, "Training Diffusion Models with Reinforcement Learning", section 5.1. They have no
gradient, so they are for reinforcement learning and for reports.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rewards.base import Reward

QUALITY = 95
"""Of the JPEG, as in the official code (kvablack/ddpo-pytorch, rewards.py)."""


class JpegSize(Reward):
    """Kilobytes (1,000 bytes) of the picture as JPEG, times the option ``sign``: -1 rewards small files."""

    def _build(self, files: Mapping[str, Path]) -> None:
        self.sign = int(self.info.options["sign"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        levels = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return torch.tensor([self.sign * _kilobytes(picture) for picture in levels], device=pixels.device)


def _kilobytes(picture: np.ndarray) -> float:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=QUALITY)
    return file.tell() / 1000
