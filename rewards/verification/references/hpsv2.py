"""HPSv2 with torchvision's resize and open_clip's model.

Official code: tgxs002/HPSv2 (hpsv2/img_score.py and hpsv2/src/open_clip/transform.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from rewards.verification.references.open_clip_io import load_open_clip, normalize_clip, token_ids


def score(
    files: Mapping[str, Path],
    image: Image.Image,
    prompt: str,
    *,
    architecture: str = "",
    antialias: bool = False,
) -> float:
    """Return the cosine of image and text; HPSv2 does not multiply it by the logit scale.

    Args:
        files: A "checkpoint", or a "backbone" in open_clip's layout.
        image: RGB.
        prompt: Text.
        architecture: open_clip's name of the checkpoint's architecture.
        antialias: Whether to smooth when shrinking. torchvision's default for tensors was False when the
            published scores were computed, and is True today.
    """
    path = files.get("checkpoint") or files["backbone"]
    model = load_open_clip(path, architecture)
    side, pixels = model.visual.image_size[0], TF.to_tensor(image)
    # transform.py, ResizeMaxSize: the longest side becomes ``side``, the rest is padded with 0 (black). It
    # runs after ToTensor, so nothing is rounded to 8 bits.
    scale = side / max(pixels.shape[1:])
    height, width = (round(length * scale) for length in pixels.shape[1:])
    resized = TF.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=antialias)
    rows, columns = side - height, side - width
    padded = TF.pad(resized, [columns // 2, rows // 2, columns - columns // 2, rows - rows // 2])
    ids = token_ids(prompt, files.get("tokenizer"), model.context_length)
    # Black is padded before normalizing: the border becomes -mean / std, not 0.
    image_embedding, text_embedding = model.encode_image(normalize_clip(padded)), model.encode_text(ids)
    return float(torch.cosine_similarity(image_embedding, text_embedding))
