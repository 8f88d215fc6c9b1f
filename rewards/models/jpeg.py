"""JPEG compressibility: the size of the compressed image, the reward with which DDPO was introduced.

Black et al. 2023, "Training Diffusion Models with Reinforcement Learning", section 5.1. It has no gradient,
so it is for reinforcement learning and for reports.
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
from rewards.preprocess import to_bytes

_QUALITY = 95
"""JPEG quality of the official code (kvablack/ddpo-pytorch, rewards.py)."""


class JpegSize(Reward):
    """Kilobytes (1,000 bytes) of the image as JPEG, times the option ``sign``: -1 rewards small files."""

    def _build(self, files: Mapping[str, Path]) -> None:
        self.sign = int(self.info.options["sign"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        levels = to_bytes(pixels)
        return torch.tensor([self.sign * _kilobytes(image) for image in levels], device=pixels.device)


def _kilobytes(image: np.ndarray) -> float:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=_QUALITY)
    return file.tell() / 1000
