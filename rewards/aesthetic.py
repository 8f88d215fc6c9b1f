"""LAION's aesthetic predictors: how beautiful people would find a picture, from its CLIP embedding alone.

Schuhmann 2022, github.com/LAION-AI/aesthetic-predictor (v1) and
github.com/christophschuhmann/improved-aesthetic-predictor (v2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from rewards.base import Reward
from rewards.head import ScoreHead
from rewards.towers import OpenClip
from rewards.weights import load_state, read_tensors


class LaionAestheticV1(Reward):
    """One linear layer on the unit image embedding."""

    def _build(self, files: Mapping[str, Path]) -> None:
        self.towers = image_tower(files)
        state = read_tensors(files["head"])
        self.head = nn.Linear(embedding_width(self.towers), 1)
        load_state(self.head, state, files["head"])

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        score: Tensor = self.head(self.towers.embed_images(pixels))
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


def image_tower(files: Mapping[str, Path]) -> OpenClip:
    """The CLIP in the folder ``backbone``; its text half is never used."""
    return OpenClip.from_folder(files["backbone"], files.get("tokenizer"))


def embedding_width(towers: OpenClip) -> int:
    """D of the towers' embeddings (B, D)."""
    return int(towers.model.text_projection.shape[1])
