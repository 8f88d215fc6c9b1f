"""SigLIP: image-text agreement of a two-tower model trained with a sigmoid loss on each pair.

Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", equation 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rewards.backbones.towers import TransformersTowers, cosine_similarity
from rewards.base import Reward


class SiglipScore(Reward):
    """Logit that image and text belong together; its sigmoid is the probability."""

    def _build(self, files: Mapping[str, Path]) -> None:
        from transformers import SiglipModel

        self.towers = TransformersTowers.from_class(SiglipModel, files["model"], files["tokenizer"])
        self.tokenizer = self.towers.tokenizer

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        similarity = cosine_similarity(self.towers.embed_images(pixels), self.towers.embed_prompts(prompts))
        return self.towers.logits(similarity)
