"""Image tensors to the uint8 arrays that classical image analysis reads."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Convert images, float (B, 3, H, W) in [0, 1], to uint8 (B, H, W, 3), rounded to the nearest level."""
    levels = (images.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round()
    array: NDArray[np.uint8] = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return array
