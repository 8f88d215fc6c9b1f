"""ImageReward: a BLIP with cross-attention that ranks images for a prompt.

Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rewards.backbones.blip import BlipConfig, BlipRanker
from rewards.backbones.tokens import bert_tokenizer
from rewards.base import Reward
from rewards.weights.tensors import load_state, read_tensors

PUBLISHED = BlipConfig(mean=0.16717362830052426, std=1.0333394966054072)
"""ImageReward's sizes and the statistics of its raw reward (the official ImageReward.py)."""

_UNUSED_KEYS = (
    ".position_ids",
    *(f"blip.{tower}_proj.{part}" for tower in ("vision", "text") for part in ("weight", "bias")),
)
"""Endings of keys of the published checkpoint that no score depends on: BLIP's contrastive projections."""


class ImageReward(Reward):
    """Standardised reward of a `BlipRanker`, whose sizes are in the file ``config`` or the published ones.

    The text's first token stays [CLS], as in the official code, although BLIP was trained with [ENC] there.
    """

    alone_in_half_precision = True

    def _build(self, files: Mapping[str, Path]) -> None:
        self.config = BlipConfig.read(files["config"]) if "config" in files else PUBLISHED
        self.ranker = BlipRanker(self.config)
        load_state(self.ranker, read_tensors(files["checkpoint"]), files["checkpoint"], ignore=_UNUSED_KEYS)
        self.tokenizer = bert_tokenizer(files["vocabulary"], self.config.max_tokens)

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        assert self.tokenizer is not None, "set in _build"
        ids, mask = self.tokenizer(prompts)
        longest = int(mask.sum(dim=1).max())  # nothing attends to the padding, so it is left out
        raw = self.ranker(pixels, ids[:, :longest].to(pixels.device), mask[:, :longest].to(pixels.device))
        score: Tensor = (raw - self.config.mean) / self.config.std
        return score
