"""CLIP-IQA: whether CLIP finds "Good photo." or "Bad photo." the better caption of a picture.

Wang et al. 2023, "Exploring CLIP for Assessing the Look and Feel of Images", equations 2-3. The image keeps
its size: the ResNet's attention pooling loses its position embedding, so it reads any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.backbones.towers import OpenClip, wide
from rewards.base import Reward
from tcbench.errors import MismatchError

ANTONYMS = ("Good photo.", "Bad photo.")
"""The pair of the official configuration (IceClear/CLIP-IQA, configs/clipiqa)."""

SMALLEST_PX = 32
"""The ResNet halves the image five times."""


class ClipIqa(Reward):
    """The probability, 0 to 1, that the picture is a good photograph rather than a bad one."""

    def _build(self, files: Mapping[str, Path]) -> None:
        towers = OpenClip.from_folder(files["backbone"], files.get("tokenizer"))
        self.eyes: Any = deepcopy(towers.model.visual)  # of its own: it is not as other rewards see
        if not hasattr(self.eyes, "attnpool"):
            raise MismatchError(
                f"{files['backbone']} is no ResNet CLIP, as CLIP-IQA needs for images of any size"
            )
        places = self.eyes.attnpool.positional_embedding
        self.eyes.attnpool.positional_embedding = nn.Parameter(torch.zeros_like(places[:1]))
        with torch.no_grad():
            texts = towers.logit_scale * towers.embed_prompts(ANTONYMS)
        self.texts = nn.Parameter(texts.clone())

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        if min(pixels.shape[-2:]) < SMALLEST_PX:
            height, width = pixels.shape[-2:]
            raise ValueError(
                f"{self.info.name} reads images of at least {SMALLEST_PX} pixels a side, got "
                f"{height} x {width}; enlarge them first"
            )
        logits = F.normalize(wide(self.eyes(pixels)), dim=-1) @ wide(self.texts).T
        return logits.softmax(dim=-1)[:, 0]
