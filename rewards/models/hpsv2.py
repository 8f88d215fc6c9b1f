"""HPSv2: a CLIP fine-tuned on rankings of pictures, whose bare cosine is the score.

Wu et al. 2023, "Human Preference Score v2", section 4. The published tables multiply it by 100; here it is as
the official code returns it. Versions 2.0 and 2.1 are not comparable, nor are scores with and without
antialiasing: published numbers were made by a torchvision that resized tensors without it, today's default is
with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rewards.backbones.towers import OpenClip, cosine
from rewards.base import Reward


class HPSv2(Reward):
    """From the published ``checkpoint`` of the ``architecture`` option, or from a folder ``backbone``."""

    def _build(self, files: Mapping[str, Path]) -> None:
        if "checkpoint" in files:
            self.towers = OpenClip.from_checkpoint(
                str(self.info.options["architecture"]), files["checkpoint"]
            )
        else:
            self.towers = OpenClip.from_folder(files["backbone"], files["tokenizer"])
        self.tokenizer = self.towers.tokenizer

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return cosine(self.towers.embed_images(pixels), self.towers.embed_prompts(prompts))
