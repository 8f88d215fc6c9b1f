"""Aesthetic predictors of LAION, versions 1 and 2, and version 2.5: a head on a unit image embedding.

Official code: LAION-AI/aesthetic-predictor (version 1), christophschuhmann/improved-aesthetic-predictor
(version 2, simple_inference.py) and discus0434/aesthetic-predictor-v2-5 (version 2.5,
src/aesthetic_predictor_v2_5/siglip_v2_5.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import functional as TF

from rewards.verification.references.open_clip_io import center_crop, load_open_clip


def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """Return the head's value for the image."""
    with torch.no_grad():
        embedding = _siglip(files["model"], image) if "model" in files else _clip(files["backbone"], image)
    # Both predictors were trained on embeddings of length 1 (`normalized` in simple_inference.py).
    x = embedding / embedding.norm()
    state = _read(files["head"])
    # In evaluation mode the dropouts between the linear layers do nothing, and no version has activations, so
    # the layers apply one after another in the order of their numbers.
    for layer in sorted({key.rpartition(".")[0] for key in state}, key=_number):
        prefix = f"{layer}." if layer else ""
        x = state[f"{prefix}weight"] @ x + state[f"{prefix}bias"]
    return float(x)


def _number(layer: str) -> int:
    """Return the number in a name such as "layers.4"; version 1 has one layer without a name."""
    return int(re.sub(r"\D", "", layer) or 0)


def _clip(folder: Path, image: Image.Image) -> Tensor:
    """Return the embedding (D,) of CLIP's image tower, after its projection."""
    model = load_open_clip(folder)
    embedding: Tensor = model.encode_image(center_crop(image, model.visual.image_size[0]))[0]
    return embedding


def _siglip(folder: Path, image: Image.Image) -> Tensor:
    """Return the pooled state (D,) of SigLIP's image tower, of the image squashed to a square by PIL."""
    tower = _siglip_tower(folder)
    side = tower.config.image_size
    pixels = TF.to_tensor(image.resize((side, side), Image.Resampling.BICUBIC))
    pooled: Tensor = tower(pixel_values=(pixels[None] - 0.5) / 0.5).pooler_output[0]
    return pooled


@lru_cache(maxsize=2)
def _siglip_tower(folder: Path) -> Any:
    from transformers import SiglipVisionModel

    return SiglipVisionModel.from_pretrained(folder, local_files_only=True, dtype="float32").eval()


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return {key: value.float() for key, value in state.items()}
