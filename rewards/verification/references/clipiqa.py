"""CLIP-IQA with CLIP's attention pooling written out (IceClear/CLIP-IQA, mmedit/models/backbones)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rewards.verification.references import open_clip_model as clip


def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """The softmax of two captions' logits, at the picture's own size."""
    model = clip.from_folder(files["backbone"])
    with torch.no_grad():
        seen = pooled(model.visual, clip.normalised(clip.as_tensor(image)))
        good, bad = (
            float(torch.cosine_similarity(seen, model.encode_text(clip.tokens(text, None, 77))))
            for text in ("Good photo.", "Bad photo.")
        )
    return 1 / (1 + math.exp(float(model.logit_scale.exp()) * (bad - good)))


def pooled(visual: Any, pixels: Tensor) -> Tensor:
    """CLIP's attention pooling of one picture, without positions: (1, D)."""
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    tokens = features.flatten(2)[0].T  # (HW, C)
    tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens])
    pool = visual.attnpool
    heads, width = pool.num_heads, tokens.shape[1] // pool.num_heads
    query = pool.q_proj(tokens[:1]).view(heads, 1, width)
    key, value = (p(tokens).view(-1, heads, width).transpose(0, 1) for p in (pool.k_proj, pool.v_proj))
    attended = (query @ key.transpose(1, 2) / width**0.5).softmax(dim=-1) @ value
    result: Tensor = pool.c_proj(attended.reshape(1, -1))
    return result
