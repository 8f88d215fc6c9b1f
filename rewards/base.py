"""The contract of every reward model: ``score(images, prompts)``, checked, frozen, one value an image."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor, nn

from rewards.backbones.processor import profile_of
from rewards.info import RewardInfo
from rewards.preprocess import preprocess, to_tensor
from rewards.weights.locate import content_id, locate_weights

if TYPE_CHECKING:
    from PIL.Image import Image

    from rewards.backbones.tokens import Tokenizer

WANTED = "a list of PIL images or one float tensor (B, 3, H, W) in [0, 1]"
"""What images are, in messages."""

TOLERANCE = 1e-4
"""How far outside [0, 1] a pixel may be: the rounding of a cast, not a missing clamp."""


class Reward(nn.Module, ABC):
    """A frozen model that scores images for prompts.

    A reward of one's own extends this class, builds its modules in `_build` and scores in `_score`. It is
    always in evaluation mode and its parameters never need gradients; those of the score reach the images.
    """

    tokenizer: Tokenizer | None = None
    """What cuts prompts short, for a reward that reads them."""

    def __init__(self, info: RewardInfo, files: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.info = info
        self.files = dict(files or {})
        self.profile = profile_of(info, self.files)
        self._build(self.files)
        self.requires_grad_(False)
        self.eval()

    def _build(self, files: Mapping[str, Path]) -> None:
        """Make the modules from ``files``, the located weights by key."""

    @abstractmethod
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of ``pixels`` (B, 3, H, W), as the profile made them; NaN: cannot judge."""

    @final
    def score(self, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None) -> Tensor:
        """Scores (B,), float32, of B images for B prompts.

        Args:
            images: float tensor (B, 3, H, W), RGB in [0, 1], any size; or PIL images of any 8-bit mode.
            prompts: one text an image; may be left out for a reward that uses none.

        Returns:
            One score an image, with gradients to the images if it is differentiable; NaN where
            the reward cannot judge the prompt.

        Raises:
            ValueError: the images or prompts are not as described; the message says which and how to mend it.
        """
        batch = as_batch(images)
        texts = self.check_prompts(prompts, sum(len(part) for part in batch))
        return self.score_pixels(self.pixels(batch), texts)

    @final
    def pixels(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The model's input for what `as_batch` gave, in its own precision, on its device.

        One tensor (B, 3, H, W) for each run of images that have one size by now: one for all, unless the
        profile keeps their shapes apart.
        """
        if not self.info.differentiable:
            batch = [part.detach() for part in batch]
        parts = [preprocess(part.to(self._device(part)), self.profile) for part in batch]
        runs = groupby(parts, key=lambda part: part.shape[-2:])
        return tuple(torch.cat(list(run)).to(self.dtype) for _, run in runs)

    @final
    def score_pixels(self, pixels: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32, of what `pixels` made of B images."""
        rest = iter(prompts)
        return torch.cat([self._score_run(run, list(islice(rest, len(run)))) for run in pixels])

    def _score_run(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32, of ``pixels`` (B, 3, H, W)."""
        count = len(pixels)
        # a reward has a precision of its own, also inside the autocast of a loop that calls it
        with torch.autocast(pixels.device.type, enabled=False):
            scores = self._score(pixels, prompts)
        if scores.shape != (count,):
            shape = tuple(scores.shape)
            raise ValueError(
                f"{self.info.name} gave scores of shape {shape} for {count} images, expected ({count},)"
            )
        return scores.float()

    def truncated(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are longer than the text encoder reads."""
        if self.tokenizer is None or not prompts:  # of none, tokenizers make an error
            return 0
        limit = self.tokenizer.limit
        return sum(length > limit for length in self.tokenizer.lengths(prompts))

    @property
    def dtype(self) -> torch.dtype:
        """The precision that scores are computed in."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @property
    def score_id(self) -> str:
        """What its scores depend on, as 12 hex digits (see the function `score_id`)."""
        return score_id(self.info, str(self.dtype).removeprefix("torch."), self.files)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, also inside a model that is put in training mode."""
        return super().train(False)

    def _device(self, images: Tensor) -> torch.device:
        return next((p.device for p in self.parameters()), images.device)

    @final
    def check_prompts(self, prompts: Sequence[str] | None, count: int) -> list[str]:
        """The prompts of ``count`` images; raises ValueError for what is not one text an image."""
        if prompts is None and not self.info.uses_prompt:
            return [""] * count
        got = _not_texts(prompts)
        if got:
            raise ValueError(f"{self.info.name} got {got}; expected a list of {count} texts, one an image")
        texts = list(prompts or ())
        if len(texts) != count:
            raise ValueError(
                f"{self.info.name} got {len(texts)} prompts for {count} images; expected one an image: "
                "repeat a prompt for each of its images"
            )
        return texts


def score_id(info: RewardInfo, dtype: str = "float32", files: Mapping[str, Path] | None = None) -> str:
    """12 hex digits that name all that a score depends on: weights, class, options, preprocessing, precision.

    The contents of ``files``, the located weights by key, are part of it. Raises `MissingWeights` if they are
    to be found first and cannot be.
    """
    files = locate_weights(info) if files is None else files
    record = {
        "entry": _entry_id(info.entry),
        "options": dict(info.options),
        "weights": {file.key: content_id(file, files[file.key]) for file in info.weights},
        "code": dict(info.code),
        "profile": asdict(profile_of(info, files)),
        "dtype": dtype,
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]


def _entry_id(entry: str) -> str:
    """The class of a reward as part of its id, without the folder that its module lies in.

    Moving a file must not change an id: a reward file of the user counts by its name, and the built-in
    rewards, which lay directly in ``rewards/`` before they moved to ``rewards/models/``, as they did there.
    """
    return Path(entry).name if ".py:" in entry else entry.replace("rewards.models.", "rewards.", 1)


def as_batch(images: Tensor | Sequence[Image]) -> list[Tensor]:
    """Checked images as tensors (B, 3, H, W): one of a tensor, one each of PIL images. Raises ValueError."""
    if isinstance(images, Tensor):
        batch = [images]
    elif isinstance(images, Iterable):
        batch = [_from_pil(image)[None] for image in images]
    else:
        raise ValueError(
            f"got a {type(images).__name__} as images; expected {WANTED}: one picture is [picture]"
        )
    if not batch:
        raise ValueError(f"got no images; expected {WANTED}: give at least one")
    for part in batch:
        _check_images(part)
    return batch


def _from_pil(image: Image) -> Tensor:
    if not hasattr(image, "convert"):
        raise ValueError(
            f"got a list with a {type(image).__name__} as images; expected {WANTED}: torch.stack makes one "
            "tensor of several"
        )
    return to_tensor(image)


def _check_images(images: Tensor) -> None:
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != 3 or 0 in shape:
        raise ValueError(
            f"got images of shape {shape}; expected (B, 3, H, W), RGB, none of them 0{_mend(shape)}"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"got images of {images.dtype}; expected floats in [0, 1]: divide 8-bit images by 255"
        )
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:  # false for NaN too
        raise ValueError(
            f"got images with values from {low:g} to {high:g}; expected [0, 1]: "
            "a decoder's output in [-1, 1] becomes (x / 2 + 0.5).clamp(0, 1)"
        )


def _mend(shape: tuple[int, ...]) -> str:
    """What makes images of a wrong shape right, as the end of a message; empty where that is not known."""
    if len(shape) == 3 and shape[0] == 3:
        return ": images[None] is a batch of one"
    if len(shape) == 4 and shape[3] == 3:
        return ": images.permute(0, 3, 1, 2) puts the channels first"
    if len(shape) == 4 and shape[1] == 1:
        return ": images.expand(-1, 3, -1, -1) makes grey RGB"
    return ": images[:, :3] drops the transparency" if len(shape) == 4 and shape[1] == 4 else ""


def _not_texts(prompts: Sequence[str] | None) -> str:
    """What was given instead of a list of texts, as a part of a message; empty if it is one."""
    if prompts is None:
        return "no prompts"
    if isinstance(prompts, str):
        return f"one text, {prompts[:40]!r}, as prompts"
    if not isinstance(prompts, Sequence):
        return f"a {type(prompts).__name__} as prompts"
    for place, text in enumerate(prompts):
        if not isinstance(text, str):
            return f"a {type(text).__name__} as prompt {place}"
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            return f"half of a surrogate pair, which is no character, in prompt {place}"
    return ""
