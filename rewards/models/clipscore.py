"""CLIPScore: the cosine of an image's and its prompt's CLIP embeddings, in the four scales that are in use.

Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", equation 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rewards.backbones.towers import cosine, towers_in
from rewards.base import Reward

CONVENTIONS = ("hessel", "torchmetrics", "logits", "cosine")
PREFIX = "A photo depicts "
"""What the paper puts before each caption."""


class ClipScore(Reward):
    """The option ``convention`` names the scale.

    "hessel" is the paper's 2.5 max(cos, 0) of a prefixed caption, "torchmetrics" 100 cos, "logits" the
    model's own logit (the cosine times its scale, plus a SigLIP's bias), "cosine" the bare cosine.
    """

    def _build(self, files: Mapping[str, Path]) -> None:
        self.convention = str(self.info.options["convention"])
        if self.convention not in CONVENTIONS:
            known = ", ".join(CONVENTIONS)
            raise ValueError(
                f"{self.info.name}: there is no CLIPScore convention {self.convention!r}, only {known}"
            )
        self.towers = towers_in(files["backbone"], files.get("tokenizer"))
        self.tokenizer = self.towers.tokenizer

    def truncated(self, prompts: Sequence[str]) -> int:
        """How many of the prompts, with the prefix of the convention, are longer than CLIP reads."""
        return super().truncated(self._captions(prompts))

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        similarity = cosine(
            self.towers.embed_images(pixels), self.towers.embed_prompts(self._captions(prompts))
        )
        if self.convention == "hessel":
            return 2.5 * similarity.clamp(min=0)
        if self.convention == "torchmetrics":
            return 100 * similarity
        return self.towers.logits(similarity) if self.convention == "logits" else similarity

    def _captions(self, prompts: Sequence[str]) -> list[str]:
        prefix = PREFIX if self.convention == "hessel" else ""
        return [prefix + prompt for prompt in prompts]
