"""LAION's predictors and version 2.5: a head's matrices, one after another, on a unit embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import functional as TF

from rewards.verification.references import open_clip_model as clip

V1 = ("",)
V2 = tuple(f"layers.{place}." for place in (0, 2, 4, 6, 7))
V25 = tuple(f"scoring_head.{place}." for place in (0, 2, 4, 6, 8))


def score(files: Mapping[str, Path], image: Image.Image, prompt: str, *, layers: Sequence[str] = V2) -> float:
    """LAION's: on the unit embedding of a CLIP's image tower."""
    model = clip.from_folder(files["backbone"])
    with torch.no_grad():
        embedding = model.encode_image(clip.cropped(image, model.visual.image_size[0]))[0]
    return _head(files["head"], embedding / embedding.norm(), layers)


def score_v25(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """Version 2.5: on the unit pooled state of a SigLIP's image tower, the picture squashed by PIL."""
    eyes = _siglip(files["model"])
    side = eyes.config.image_size
    picture = TF.to_tensor(image.resize((side, side), Image.Resampling.BICUBIC))
    with torch.no_grad():
        embedding = eyes(pixel_values=(picture[None] - 0.5) / 0.5).pooler_output[0]
    return _head(files["head"], embedding / embedding.norm(), V25)


@lru_cache(maxsize=2)
def _siglip(folder: Path) -> Any:
    from transformers import SiglipVisionModel

    return SiglipVisionModel.from_pretrained(folder, local_files_only=True, dtype="float32").eval()


def _head(path: Path, x: Tensor, layers: Sequence[str]) -> float:
    load = load_file if path.suffix == ".safetensors" else _torch
    state = {key: value.float() for key, value in load(path).items()}
    for layer in layers:
        x = state[f"{layer}weight"] @ x + state[f"{layer}bias"]
    return float(x)


def _torch(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", weights_only=True))
