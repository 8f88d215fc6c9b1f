"""Sizes of tiny models, shared by the modules that write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH = 32
"""Width of every transformer that is written here."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint that depend on its reward; all other sizes are fixed."""

    px: int
    """Side of the model's input, pixels."""
    tokens: int
    """Text context length."""
    vocabulary: int
    """Number of text tokens."""
    tokenizer: str = ""
    """Kind of tokenizer, a key of `vocabularies.KINDS`; empty for a reward that ships none."""
    quick_gelu: bool = False
    """Whether the configuration names the approximate GELU of OpenAI's CLIP."""
    saved: bool = False
    """Whether the record names the file that today's transformers saves in place of published .bin files."""

    @property
    def patch(self) -> int:
        """Side of a patch, pixels: four patches a side, whatever the input size."""
        return self.px // 4

    def two_tower_config(self) -> dict[str, Any]:
        """Return transformers' text and vision configuration of a CLIP or SigLIP."""
        size = {
            "hidden_size": WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        end = self.vocabulary - 1  # CLIP's vocabulary ends with the start and the end token
        special = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
        text = {**size, **special, "vocab_size": end + 1, "max_position_embeddings": self.tokens}
        vision = {**size, "image_size": self.px, "patch_size": self.patch}
        return {"text_config": text, "vision_config": vision}


Writer = Callable[[Path, Sizes], Path]
"""Writes one weights file or folder at a path; returns the path, which may have got a suffix."""
