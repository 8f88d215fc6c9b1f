"""PickScore: a CLIP fine-tuned on which of two images people picked for their prompt.

Kirstain et al. 2023, "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation", eq. 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rewards.backbones.towers import TransformersTowers, cosine_similarity
from rewards.base import Reward


class PickScore(Reward):
    """Cosine times logit scale; a softmax over a prompt's images gives how often each is picked."""

    def _build(self, files: Mapping[str, Path]) -> None:
        from transformers import CLIPModel

        self.towers = TransformersTowers.from_class(CLIPModel, files["model"], files["tokenizer"])
        self.tokenizer = self.towers.tokenizer

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        similarity = cosine_similarity(self.towers.embed_images(pixels), self.towers.embed_prompts(prompts))
        return self.towers.logits(similarity)
