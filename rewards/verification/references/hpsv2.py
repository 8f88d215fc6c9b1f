"""HPSv2 in the words of torchvision and open_clip (tgxs002/HPSv2, hpsv2/src/open_clip/transform.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from rewards.verification.references import open_clip_model as clip


def score(
    files: Mapping[str, Path], image: Image.Image, prompt: str, *, architecture: str, antialias: bool
) -> float:
    """The cosine on the tensor fitted into the model's square and padded with black."""
    if "checkpoint" in files:
        model = clip.from_checkpoint(files["checkpoint"], architecture)
    else:
        model = clip.from_folder(files["backbone"])
    side, picture = model.visual.image_size[0], clip.as_tensor(image)
    scale = side / max(picture.shape[1:])
    inner = [round(length * scale) for length in picture.shape[1:]]
    resized = TF.resize(picture, inner, InterpolationMode.BICUBIC, antialias=antialias)
    down, right = side - inner[0], side - inner[1]
    padded = TF.pad(resized, [right // 2, down // 2, right - right // 2, down - down // 2])
    ids = clip.tokens(prompt, files.get("tokenizer"), model.context_length)
    seen, read = model.encode_image(clip.normalised(padded)), model.encode_text(ids)
    return float(torch.cosine_similarity(seen, read))
