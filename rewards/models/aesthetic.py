"""LAION's aesthetic predictors: how beautiful people would find a picture, from its CLIP embedding alone.

Schuhmann 2022, github.com/LAION-AI/aesthetic-predictor (v1) and
github.com/christophschuhmann/improved-aesthetic-predictor (v2). Version 2.5 is another author's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from rewards.backbones.head import WIDTHS, ScoreHead, WideDict, WideLinear
from rewards.backbones.towers import OpenClip, from_pretrained, wide
from rewards.base import Reward
from rewards.weights.tensors import load_state, read_tensors


class LaionAestheticV1(Reward):
    """One linear layer on the unit image embedding."""

    def _build(self, files: Mapping[str, Path]) -> None:
        self.towers = image_tower(files)
        state = read_tensors(files["head"])
        self.head = WideLinear(embedding_width(self.towers), 1)
        load_state(self.head, state, files["head"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        score: Tensor = self.head(wide(self.towers.embed_images(pixels)))
        return score[:, 0]


class LaionAestheticV2(Reward):
    """Five linear layers on the unit image embedding; trained on ratings from 1 to 10."""

    def _build(self, files: Mapping[str, Path]) -> None:
        self.towers = image_tower(files)
        self.head = ScoreHead(embedding_width(self.towers))
        load_state(self.head, read_tensors(files["head"]), files["head"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        score: Tensor = self.head(self.towers.embed_images(pixels))
        return score


NOT_EYES = ("text_model.", "logit_scale", "logit_bias")
"""How keys of a SigLIP begin that are not of its image half."""


class AestheticV25(Reward):
    """Version 2.5: five linear layers, without activations, on the unit pooled embedding of a SigLIP.

    discus0434 2024, github.com/discus0434/aesthetic-predictor-v2-5. The head's licence is AGPL-3.0.
    """

    def _build(self, files: Mapping[str, Path]) -> None:
        from transformers import SiglipVisionModel

        self.eyes: Any = from_pretrained(SiglipVisionModel, files["model"], ignore=NOT_EYES)
        width = int(self.eyes.config.hidden_size)
        sizes = (width, *WIDTHS, 1)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        # every second place was a dropout in training: the published keys are scoring_head.{0,2,4,6,8}
        self.head = WideDict({"scoring_head": nn.Sequential()})
        for place, layer in enumerate(layers):
            self.head["scoring_head"].add_module(str(2 * place), layer)
        load_state(self.head, read_tensors(files["head"]), files["head"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        embedding = wide(F.normalize(self.eyes(pixel_values=pixels).pooler_output, dim=-1))
        score: Tensor = self.head["scoring_head"](embedding)
        return score[:, 0]


def image_tower(files: Mapping[str, Path]) -> OpenClip:
    """The CLIP in the folder ``backbone``; its text half is never used."""
    return OpenClip.from_folder(files["backbone"], files.get("tokenizer"))


def embedding_width(towers: OpenClip) -> int:
    """D of the towers' embeddings (B, D)."""
    return int(towers.model.text_projection.shape[1])
