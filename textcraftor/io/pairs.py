"""Real images with their texts, for direct fine-tuning: the folder layout of Hugging Face's image folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tcbench.errors import ConfigError
from textcraftor.sources import PromptSource, of_texts

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "metadata.jsonl"
DECLARED = "pairs.json"
"""Beside it, of images that were drawn: the rewards they were optimised for, as ``trained_on``."""


@dataclass(frozen=True)
class Pairs:
    """Images by number, all brought to ``size`` (height, width): the middle, scaled to fill it."""

    folder: Path
    names: Sequence[str]
    texts: Sequence[str]
    size: tuple[int, int]

    @property
    def source(self) -> PromptSource:
        """The texts, by the same numbers."""
        return of_texts(self.folder.name, self.texts)

    def images(self, numbers: Sequence[int]) -> Tensor:
        """Images (B, 3, H, W), RGB in [0, 1]. Raises ConfigError for one that cannot be read."""
        import torch
        from PIL import Image, ImageOps

        from rewards.preprocess import to_tensor

        found = []
        for number in numbers:
            path = self.folder / self.names[number]
            try:
                with Image.open(path) as image:
                    found.append(to_tensor(ImageOps.fit(image.convert("RGB"), self.size[::-1])))
            except OSError as error:
                raise ConfigError(
                    f"cannot read {path}, which {self.folder / METADATA} names: {error}"
                ) from error
        return torch.stack(found)


def read_pairs(folder: Path, size: tuple[int, int]) -> Pairs:
    """The pairs of a folder. Raises ConfigError, with the line, for metadata that is not as described."""
    file = folder / METADATA
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; it has a line for each image") from error
    names, texts = [], []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            names.append(str(entry["file_name"]))
            texts.append(str(entry["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f'{file}, line {number}: {error}; expected {{"file_name": "1.png", "text": "a cat"}}'
            ) from error
    if not names:
        raise ConfigError(f"{file} is empty; it has a line for each image")
    return Pairs(folder, names, texts, size)
