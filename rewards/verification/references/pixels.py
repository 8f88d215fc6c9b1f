"""Colourfulness and darkness, in float64 from the 8-bit pixels.

Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images", metric M(3). Darkness is this
project's own definition, with the luma weights of ITU-R BT.709.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def score(files: Mapping[str, Path], image: Image.Image, prompt: str, *, measure: str) -> float:
    """Return the ``measure`` of the image: "colourfulness" or "darkness"."""
    red, green, blue = np.moveaxis(np.asarray(image, dtype=np.float64), 2, 0)  # (H, W) in 0..255
    if measure == "darkness":
        return float(100 - 100 * np.mean(0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255)
    rg, yb = red - green, 0.5 * (red + green) - blue
    # np.std divides by the number of pixels.
    return float(np.hypot(np.std(rg), np.std(yb)) + 0.3 * np.hypot(np.mean(rg), np.mean(yb)))
