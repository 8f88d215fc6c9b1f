"""Size of the JPEG that PIL writes.

Official code: kvablack/ddpo-pytorch (ddpo_pytorch/rewards.py, `jpeg_incompressibility`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image


def score(files: Mapping[str, Path], image: Image.Image, prompt: str, *, sign: int) -> float:
    """Return the file's size in kilobytes of 1,000 bytes, times ``sign``."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "image.jpg")
        # Through an array, because PIL would write the comment of an image that was read from a JPEG again.
        Image.fromarray(np.array(image)).save(path, quality=95)
        return sign * os.path.getsize(path) / 1000
