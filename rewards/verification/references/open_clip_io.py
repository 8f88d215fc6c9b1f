"""Load CLIPs from open_clip's layouts with open_clip itself, and prepare their inputs with torchvision."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@lru_cache(maxsize=4)
def load_open_clip(path: Path, architecture: str = "") -> Any:
    """Return a CLIP.

    Args:
        path: A folder in open_clip's layout; or a checkpoint with the weights under "state_dict".
        architecture: open_clip's name of the checkpoint's architecture.
    """
    import open_clip
    from open_clip.model import CLIP

    if path.is_dir():
        config = json.loads((path / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        state = load_file(path / "open_clip_model.safetensors")
    else:
        config = open_clip.get_model_config(architecture)
        state = torch.load(path, weights_only=True)["state_dict"]
    model = CLIP(**config).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


def center_crop(image: Image.Image, size: int) -> Tensor:
    """Apply OpenAI's transform (openai/CLIP, clip/clip.py, `_transform`): (1, 3, size, size).

    PIL resizes the shortest side to ``size`` and rounds to 8 bits; only then the center is cropped.
    """
    resized = TF.resize(image, [size], InterpolationMode.BICUBIC)
    return normalize_clip(TF.to_tensor(TF.center_crop(resized, [size])))


def normalize_clip(pixels: Tensor) -> Tensor:
    """Normalize (3, H, W) in [0, 1] with CLIP's statistics: (1, 3, H, W)."""
    batch: Tensor = TF.normalize(pixels, _MEAN, _STD)[None]
    return batch


def token_ids(text: str, tokenizer: Path | None, length: int) -> Tensor:
    """Return ids (1, length) by open_clip's tokenizer, or by transformers' from a folder."""
    if tokenizer is None:
        from open_clip.tokenizer import SimpleTokenizer

        ids: Tensor = SimpleTokenizer(context_length=length)([text])
        return ids
    from transformers import CLIPTokenizer

    loaded = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    encoded = loaded([text], padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    padded: Tensor = encoded["input_ids"]
    return padded
