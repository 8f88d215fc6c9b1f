"""CLIPs in open_clip's layouts, made by open_clip itself, and the inputs that torchvision makes for them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@lru_cache(maxsize=4)
def from_folder(folder: Path) -> Any:
    """The CLIP in a folder of open_clip's layout."""
    from open_clip.model import CLIP

    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    model = CLIP(**config).eval().requires_grad_(False)
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return model


@lru_cache(maxsize=4)
def from_checkpoint(path: Path, architecture: str) -> Any:
    """The CLIP under a checkpoint's "state_dict"."""
    import open_clip
    from open_clip.model import CLIP

    model = CLIP(**open_clip.get_model_config(architecture)).eval().requires_grad_(False)
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return model


def cropped(image: Image.Image, size: int) -> Tensor:
    """OpenAI's transform through PIL: shortest side to ``size``, centre crop: (1, 3, size, size)."""
    resized = TF.resize(image, [size], InterpolationMode.BICUBIC)
    return normalised(TF.to_tensor(TF.center_crop(resized, [size])))


def normalised(tensor: Tensor) -> Tensor:
    """(3, H, W) in [0, 1] with CLIP's statistics: (1, 3, H, W)."""
    batch: Tensor = TF.normalize(tensor, MEAN, STD)[None]
    return batch


def as_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


def tokens(text: str, tokenizer: Path | None, length: int) -> Tensor:
    """Ids (1, ``length``) by open_clip's tokenizer, or by transformers' in a folder."""
    if tokenizer is None:
        from open_clip.tokenizer import SimpleTokenizer

        ids: Tensor = SimpleTokenizer(context_length=length)([text])
        return ids
    from transformers import CLIPTokenizer

    loaded = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    cut = loaded([text], padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    found: Tensor = cut["input_ids"]
    return found
