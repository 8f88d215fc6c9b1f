"""The size of a JPEG, as PIL writes it (kvablack/ddpo-pytorch, ddpo_pytorch/rewards.py)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image


def score(files: Mapping[str, Path], image: Image.Image, prompt: str, *, sign: int) -> float:
    """Kilobytes of the file, times ``sign``."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "picture.jpg")
        # from the pixels alone: a picture that was a JPEG brings its comment along
        Image.fromarray(np.array(image)).save(path, quality=95)
        return sign * os.path.getsize(path) / 1000
