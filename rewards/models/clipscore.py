"""CLIPScore: cosine of the CLIP embeddings of an image and its prompt, in the four scales in use.

Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", equation 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rewards.backbones.towers import Towers, cosine_similarity
from rewards.base import Reward
from tcbench.errors import UnknownName

_CONVENTIONS = ("hessel", "torchmetrics", "logits", "cosine")
_PREFIX = "A photo depicts "
"""Text that the paper puts before each caption."""


class ClipScore(Reward):
    """CLIPScore in the scale that the option ``convention`` names.

    - "hessel": 2.5 max(cos, 0) of a prefixed caption, as in the paper.
    - "torchmetrics": 100 cos, torchmetrics' scale. Images and texts are read as the model's folder says: as
      open_clip does, or as transformers does, which torchmetrics calls.
    - "logits": the model's logit, that is the cosine times its scale, plus a SigLIP's bias.
    - "cosine": the cosine.
    """

    def _build(self, files: Mapping[str, Path]) -> None:
        self.convention = str(self.info.options["convention"])
        if self.convention not in _CONVENTIONS:
            raise UnknownName("CLIPScore convention", self.convention, _CONVENTIONS)
        self.towers = Towers.load(files["backbone"], files.get("tokenizer"))
        self.tokenizer = self.towers.tokenizer

    def truncated(self, prompts: Sequence[str]) -> int:
        """Count prompts that, with the convention's prefix, are longer than the text encoder reads."""
        return super().truncated(self._captions(prompts))

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        similarity = cosine_similarity(
            self.towers.embed_images(pixels), self.towers.embed_prompts(self._captions(prompts))
        )
        if self.convention == "hessel":
            return 2.5 * similarity.clamp(min=0)
        if self.convention == "torchmetrics":
            return 100 * similarity
        return self.towers.logits(similarity) if self.convention == "logits" else similarity

    def _captions(self, prompts: Sequence[str]) -> list[str]:
        prefix = _PREFIX if self.convention == "hessel" else ""
        return [prefix + prompt for prompt in prompts]
