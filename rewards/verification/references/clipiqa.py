"""CLIP-IQA with CLIP's attention pooling written out.

Official code: IceClear/CLIP-IQA (mmedit/models/backbones/sr_backbones/coopclipiqa.py and
mmedit/models/components/clip/model.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from rewards.verification.references.open_clip_io import load_open_clip, normalize_clip, token_ids


def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """Return the softmax over the logits of two captions; the image keeps its size."""
    model = load_open_clip(files["backbone"])
    with torch.no_grad():
        embedding = _pooled(model.visual, normalize_clip(TF.to_tensor(image)))
        good, bad = (
            float(torch.cosine_similarity(embedding, model.encode_text(token_ids(text, None, 77))))
            for text in ("Good photo.", "Bad photo.")
        )
    # A softmax over two logits is the sigmoid of their difference.
    return 1 / (1 + math.exp(float(model.logit_scale.exp()) * (bad - good)))


def _pooled(visual: Any, pixels: Tensor) -> Tensor:
    """Pool the image's features by attention: (1, D).

    CLIP's AttentionPool2d adds positions for one fixed size. CLIP-IQA leaves them out (`pos_embedding=False`
    in model.py), which is what allows any size.
    """
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    tokens = features.flatten(2)[0].T  # (HW, C)
    tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens])
    pool = visual.attnpool
    heads, width = pool.num_heads, tokens.shape[1] // pool.num_heads
    # Only the mean token is a query: its attention is the pooled embedding.
    query = pool.q_proj(tokens[:1]).view(heads, 1, width)
    key, value = (p(tokens).view(-1, heads, width).transpose(0, 1) for p in (pool.k_proj, pool.v_proj))
    attended = (query @ key.transpose(1, 2) / width**0.5).softmax(dim=-1) @ value
    result: Tensor = pool.c_proj(attended.reshape(1, -1))
    return result
