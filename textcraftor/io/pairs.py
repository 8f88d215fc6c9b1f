"""Image-text pairs in the layout of Hugging Face's image folders, for direct and supervised fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcbench.errors import ConfigError
from tcbench.images import upright
from textcraftor.sources import PromptSource

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "metadata.jsonl"
"""File with one line per pair: ``{"file_name": "1.png", "text": "a cat"}``."""

DECLARED = "pairs.json"
"""Optional file beside it, for generated images: the rewards they are optimised for, as ``trained_on``."""


@dataclass(frozen=True)
class Pairs:
    """Image-text pairs by number."""

    folder: Path
    names: Sequence[str]
    """Image files, relative to the folder."""
    texts: Sequence[str]

    @property
    def source(self) -> PromptSource:
        """The texts as a prompt source with the same numbers."""
        return PromptSource.from_texts(self.folder.name, self.texts)

    def images(self, numbers: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Read images (B, 3, H, W), RGB in [0, 1].

        Args:
            numbers: B numbers of pairs.
            size: (H, W) that every image is scaled and centre-cropped to.

        Raises:
            ConfigError: If an image cannot be read.
        """
        import torch
        from PIL import Image, ImageOps

        from rewards.preprocess import to_tensor

        images = []
        for number in numbers:
            path = self.folder / self.names[number]
            try:
                with Image.open(path) as image:
                    images.append(to_tensor(ImageOps.fit(upright(image).convert("RGB"), size[::-1])))
            except OSError as error:
                raise ConfigError(
                    f"cannot read {path}, which {self.folder / METADATA} lists: {error}"
                ) from error
        return torch.stack(images)

    def latents(self, numbers: Sequence[int], size: tuple[int, int], vae: Any) -> Tensor:
        """Encode images, read as by `images`, to clean latents (B, C, h, w).

        Takes the mode of the encoder's distribution rather than a sample, so that an image has one latent.

        Raises:
            ConfigError: If an image cannot be read.
        """
        import torch

        images = self.images(numbers, size).to(vae.device)
        with torch.no_grad():
            latents: Tensor = vae.encode((images * 2 - 1).to(vae.dtype)).latent_dist.mode()
        return latents.float() * float(vae.config.scaling_factor)

    @staticmethod
    def read(folder: Path) -> Pairs:
        """Read the list of pairs in a folder.

        Args:
            folder: Folder with metadata.jsonl and images.

        Raises:
            ConfigError: If metadata.jsonl is missing, empty or malformed; the message names the line.
        """
        file = folder / METADATA
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(
                f"cannot read {file}: {error.strerror}; data.pairs expects a folder with one line a "
                "pair in it"
            ) from error
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
            raise ConfigError(f"{file} is empty; expected one line per pair")
        return Pairs(folder, names, texts)
