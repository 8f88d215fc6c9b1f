"""CLIP-IQA: whether CLIP prefers the caption "Good photo." or "Bad photo." for an image.

Wang et al. 2023, "Exploring CLIP for Assessing the Look and Feel of Images", equations 2-3. Images keep their
size: without the position embedding of its attention pooling, CLIP's ResNet reads any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.backbones.towers import OpenClipTowers, at_least_float32
from rewards.base import Reward
from tcbench.errors import MismatchError

_ANTONYMS = ("Good photo.", "Bad photo.")
"""The pair of the official configuration (IceClear/CLIP-IQA, configs/clipiqa)."""

_MIN_PX = 32
"""Smallest side of an image, because the ResNet halves it five times."""


class ClipIqa(Reward):
    """Probability, 0 to 1, that the image is a good photo rather than a bad one."""

    def _build(self, files: Mapping[str, Path]) -> None:
        towers = OpenClipTowers.from_folder(files["backbone"], files.get("tokenizer"))
        # A copy, because the tower is changed below and a panel shares the original with other rewards.
        self.tower: Any = deepcopy(towers.model.visual)
        if not hasattr(self.tower, "attnpool"):
            raise MismatchError(
                f"{files['backbone']} is not a ResNet CLIP, which CLIP-IQA needs for images of any size"
            )
        # One row of zeros broadcasts over all positions: no position embedding, as in the official code.
        positions = self.tower.attnpool.positional_embedding
        self.tower.attnpool.positional_embedding = nn.Parameter(torch.zeros_like(positions[:1]))
        # The captions never change, so their scaled embeddings are computed once.
        with torch.no_grad():
            texts = towers.logit_scale * towers.embed_prompts(_ANTONYMS)
        self.texts = nn.Parameter(texts.clone())

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        if min(pixels.shape[-2:]) < _MIN_PX:
            height, width = pixels.shape[-2:]
            raise ValueError(
                f"{self.info.name} got an image of {height} x {width} pixels; expected at least {_MIN_PX} "
                "pixels a side: enlarge it first"
            )
        images = F.normalize(at_least_float32(self.tower(pixels)), dim=-1)
        logits = images @ at_least_float32(self.texts).T  # (B, 2)
        return logits.softmax(dim=-1)[:, 0]
