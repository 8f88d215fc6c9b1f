"""HPSv2: a CLIP fine-tuned on rankings of images; its cosine is the score.

Wu et al. 2023, "Human Preference Score v2", section 4. The published tables multiply the cosine by 100, the
official code returns it as here. Versions 2.0 and 2.1 are not comparable. Neither are scores with and without
antialiasing: the published numbers come from a torchvision that resized tensors without it, today's default
is with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rewards.backbones.towers import OpenClipTowers, cosine_similarity
from rewards.base import Reward


class HPSv2(Reward):
    """Cosine of a CLIP, from a ``checkpoint`` (option ``architecture``) or from a folder ``backbone``."""

    def _build(self, files: Mapping[str, Path]) -> None:
        if "checkpoint" in files:
            self.towers = OpenClipTowers.from_checkpoint(
                str(self.info.options["architecture"]), files["checkpoint"]
            )
        else:
            self.towers = OpenClipTowers.from_folder(files["backbone"], files["tokenizer"])
        self.tokenizer = self.towers.tokenizer

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return cosine_similarity(self.towers.embed_images(pixels), self.towers.embed_prompts(prompts))
