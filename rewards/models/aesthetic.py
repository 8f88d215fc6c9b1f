"""LAION's aesthetic predictors: a rating of beauty from an image's CLIP embedding, without the prompt.

Schuhmann 2022, github.com/LAION-AI/aesthetic-predictor (v1) and
github.com/christophschuhmann/improved-aesthetic-predictor (v2). Version 2.5 is by another author.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from rewards.backbones.head import WIDTHS, AtLeastFloat32, ScoreHead
from rewards.backbones.towers import OpenClipTowers, at_least_float32
from rewards.base import Reward
from rewards.weights.tensors import from_pretrained, load_state, read_tensors

_TEXT_KEYS = ("text_model.", "logit_scale", "logit_bias")
"""Beginnings of SigLIP's keys that are not part of its image tower."""


class LaionAestheticV1(Reward):
    """Version 1: one linear layer on the unit image embedding."""

    def _build(self, files: Mapping[str, Path]) -> None:
        self.towers = _towers(files)
        self.head = _LinearHead(_embedding_width(self.towers), 1)
        load_state(self.head, read_tensors(files["head"]), files["head"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        score: Tensor = self.head(at_least_float32(self.towers.embed_images(pixels)))
        return score[:, 0]


class LaionAestheticV2(Reward):
    """Version 2: five linear layers on the unit image embedding, trained on ratings from 1 to 10."""

    def _build(self, files: Mapping[str, Path]) -> None:
        self.towers = _towers(files)
        self.head = ScoreHead(_embedding_width(self.towers))
        load_state(self.head, read_tensors(files["head"]), files["head"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        score: Tensor = self.head(self.towers.embed_images(pixels))
        return score


class AestheticV25(Reward):
    """Version 2.5: five linear layers without activations on the unit pooled embedding of a SigLIP.

    discus0434 2024, github.com/discus0434/aesthetic-predictor-v2-5. The head's licence is AGPL-3.0.
    """

    def _build(self, files: Mapping[str, Path]) -> None:
        from transformers import SiglipVisionModel

        self.tower: Any = from_pretrained(SiglipVisionModel, files["model"], ignore=_TEXT_KEYS)
        width = int(self.tower.config.hidden_size)
        layers = [nn.Linear(a, b) for a, b in pairwise((width, *WIDTHS, 1))]
        # In training every second layer was a dropout: the published keys are scoring_head.{0,2,4,6,8}.
        self.head = _HeadDict({"scoring_head": nn.Sequential()})
        for number, layer in enumerate(layers):
            self.head["scoring_head"].add_module(str(2 * number), layer)
        load_state(self.head, read_tensors(files["head"]), files["head"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        embedding = F.normalize(self.tower(pixel_values=pixels).pooler_output, dim=-1)
        score: Tensor = self.head["scoring_head"](at_least_float32(embedding))
        return score[:, 0]


class _LinearHead(AtLeastFloat32, nn.Linear):
    """One linear layer."""


class _HeadDict(AtLeastFloat32, nn.ModuleDict):
    """Modules by name."""


def _towers(files: Mapping[str, Path]) -> OpenClipTowers:
    # The text tower is never used, but loading both lets a `Panel` share them with CLIPScore.
    return OpenClipTowers.from_folder(files["backbone"], files.get("tokenizer"))


def _embedding_width(towers: OpenClipTowers) -> int:
    return int(towers.model.text_projection.shape[1])
