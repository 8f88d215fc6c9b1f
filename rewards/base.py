"""Base class of every reward model: ``score(images, prompts)`` with checked inputs, one score per image."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, final

import torch
from torch import Tensor, nn

from rewards.backbones.processor import profile_of
from rewards.info import RewardInfo
from rewards.preprocess import Profile, preprocess
from rewards.weights.locate import content_id, locate_weights

if TYPE_CHECKING:
    from PIL.Image import Image

    from rewards.backbones.tokens import Tokenizer

_EXPECTED_IMAGES = "a list of PIL images or one float tensor (B, 3, H, W) in [0, 1]"

_TOLERANCE = 1e-4
"""How far outside [0, 1] a pixel may be: as far as a cast rounds, but not as far as a missing clamp."""


class Reward(nn.Module, ABC):
    """A frozen model that scores images for prompts.

    To write a reward, extend this class, build the modules in `_build` and compute scores in `_score`. A
    reward is always in evaluation mode. Its parameters need no gradients; the gradients of scores reach the
    images.

    Args:
        info: The reward's record.
        files: Located weights by key.
    """

    tokenizer: Tokenizer | None = None
    """Tokenizer of a reward that reads prompts; `truncated` counts the prompts that it cuts."""

    alone_in_half_precision: ClassVar[bool] = False
    """Whether images are scored one by one in half precision, because the model pads prompts to the longest
    of a batch, and half precision rounds differently for another length.
    """

    def __init__(self, info: RewardInfo, files: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.info = info
        self.files = dict(files or {})
        self.profile = profile_of(info, self.files)
        """How images are preprocessed."""
        self._build(self.files)
        self.requires_grad_(False)
        self.eval()

    def _build(self, files: Mapping[str, Path]) -> None:
        """Build the modules and load their weights from ``files``, paths by key."""

    @abstractmethod
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return scores (B,) of preprocessed ``pixels`` (B, 3, H, W); NaN where it cannot judge."""

    @final
    def score(self, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None) -> Tensor:
        """Score B images for B prompts.

        Args:
            images: Float tensor (B, 3, H, W), RGB in [0, 1], any size; or PIL images of any 8-bit mode.
            prompts: One text per image; may be None for a reward that reads no prompts.

        Returns:
            Scores (B,), float32, with gradients to the images if the reward is differentiable. NaN where the
            reward cannot judge the prompt. A score does not depend on the other images of the batch, except
            for rounding (docs/rewards.md).

        Raises:
            ValueError: If images or prompts are invalid; the message says how to fix them.
        """
        batch = as_batch(images)
        texts = self.check_prompts(prompts, len(batch))
        return self.score_pixels(self.pixels(batch), texts)

    @final
    def pixels(self, batch: Tensor | Sequence[Image]) -> tuple[Tensor, ...]:
        """Preprocess images for the model.

        Args:
            batch: Result of `as_batch`.

        Returns:
            Tensors (B, 3, H, W) in the model's precision on its device: one for each run of consecutive
            images with the same size, so a single one unless the profile keeps the images' shapes.
        """
        if isinstance(batch, Tensor):
            images = batch if self.info.differentiable else batch.detach()
            return (preprocess(images.to(self._device(images)), self.profile).to(self.dtype),)
        # PIL images may have any size, so each is preprocessed alone; then equal sizes are batched.
        parts = [preprocess(image, self.profile) for image in batch]
        runs = groupby(parts, key=lambda part: part.shape[-2:])
        pixels = [torch.cat(list(run)) for _, run in runs]
        return tuple(run.to(self._device(run), self.dtype) for run in pixels)

    @final
    def score_pixels(self, pixels: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """Return scores (B,), float32, of the result of `pixels` for B prompts."""
        remaining = iter(prompts)
        return torch.cat([self._score_run(run, list(islice(remaining, len(run)))) for run in pixels])

    def _score_run(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        count = len(pixels)
        half = self.dtype.itemsize < torch.float32.itemsize
        if count > 1 and half and self.alone_in_half_precision:
            rows = zip(torch.split(pixels, 1), prompts, strict=True)
            return torch.cat([self._score_run(row, [prompt]) for row, prompt in rows])
        # Training loops call rewards inside autocast; a score must not depend on that.
        with torch.autocast(pixels.device.type, enabled=False):
            scores: object = self._score(pixels, prompts)  # of a user's class, which may return anything
        if not isinstance(scores, Tensor) or scores.shape != (count,):
            kind = f"scores of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else "no tensor"
            raise ValueError(f"{self.info.name} returned {kind} for {count} images; expected ({count},)")
        return scores.float()

    def image_embeddings(self, images: Tensor | Sequence[Image]) -> Tensor | None:
        """Return unit embeddings (B, D) of images, as for `score`; None if the reward has no image tower."""
        from rewards.backbones.towers import Towers

        towers = [module for module in self.modules() if isinstance(module, Towers)]
        if not towers:
            return None
        return torch.cat([towers[0].embed_images(part) for part in self.pixels(images)])

    def truncated(self, prompts: Sequence[str]) -> int:
        """Count the prompts that are longer than the text encoder reads."""
        if self.tokenizer is None or not prompts:  # tokenizers refuse an empty list
            return 0
        limit = self.tokenizer.limit
        return sum(length > limit for length in self.tokenizer.lengths(prompts))

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which scores are computed."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @property
    def score_id(self) -> str:
        """Id of everything that scores depend on, 12 hex digits (see the function `score_id`)."""
        return score_id(self.info, str(self.dtype).removeprefix("torch."), self.files)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, even inside a module that is put into training mode."""
        return super().train(False)

    def _device(self, images: Tensor) -> torch.device:
        return next((p.device for p in self.parameters()), images.device)

    @final
    def check_prompts(self, prompts: Sequence[str] | None, count: int) -> list[str]:
        """Return the prompts as a list. Raises ValueError unless there is one text per image."""
        if prompts is None and not self.info.uses_prompt:
            return [""] * count
        invalid = _invalid_prompts(prompts)
        if invalid:
            raise ValueError(
                f"{self.info.name} got {invalid}; expected a list of {count} texts, one per image"
            )
        texts = list(prompts or ())
        if len(texts) != count:
            raise ValueError(
                f"{self.info.name} got {len(texts)} prompts for {count} images; expected one per image: "
                "repeat a prompt for each of its images"
            )
        return texts


def score_id(info: RewardInfo, dtype: str = "float32", files: Mapping[str, Path] | None = None) -> str:
    """Return the id of everything that a score depends on: weights, class, options, preprocessing, precision.

    Args:
        info: The reward's record.
        dtype: Precision of the model.
        files: Located weights by key, whose contents are hashed; by default they are located first.

    Returns:
        12 hex digits.

    Raises:
        MissingFiles: If weights are missing.
    """
    files = locate_weights(info) if files is None else files
    record = {
        "entry": _entry_id(info.entry),
        "options": dict(info.options),
        "weights": {file.key: content_id(file, files[file.key]) for file in info.weights},
        "code": dict(info.code),
        "profile": _profile_id(profile_of(info, files)),
        "dtype": dtype,
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]


def _profile_id(profile: Profile) -> dict[str, object]:
    """Return a profile as part of an id: fields added after the first scores only where they differ."""
    later = {field.name: field.default for field in fields(profile) if field.name in ("convert", "version")}
    given = asdict(profile)
    return {name: given[name] for name in given if name not in later or given[name] != later[name]}


def _entry_id(entry: str) -> str:
    """Return the class of a reward as part of its id, without the folder of its module.

    Moving a file must not change an id. A user's reward file counts by its name. Built-in rewards count as
    modules directly in ``rewards/``, where they were before they moved to ``rewards/models/``.
    """
    return Path(entry).name if ".py:" in entry else entry.replace("rewards.models.", "rewards.", 1)


def as_batch(images: Tensor | Iterable[Image]) -> Tensor | list[Image]:
    """Check images.

    Args:
        images: Float tensor (B, 3, H, W), RGB in [0, 1]; or PIL images of any 8-bit mode.

    Returns:
        The tensor, or the list of PIL images.

    Raises:
        ValueError: If the images are invalid; the message says how to fix them.
    """
    if isinstance(images, Tensor):
        _check_images(images)
        return images
    if not isinstance(images, Iterable):
        raise ValueError(
            f"got a {type(images).__name__} as images; expected {_EXPECTED_IMAGES}: "
            "put a single image into a list"
        )
    batch = list(images)
    if not batch:
        raise ValueError(f"got no images; expected {_EXPECTED_IMAGES}: give at least one")
    for image in batch:
        if not hasattr(image, "convert"):
            raise ValueError(
                f"got a list with a {type(image).__name__} as images; expected {_EXPECTED_IMAGES}: "
                "use torch.stack to make one tensor of several"
            )
        if 0 in image.size:
            raise ValueError(f"got an image of {image.width} x {image.height} pixels; expected no side 0")
    return batch


def _check_images(images: Tensor) -> None:
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != 3 or 0 in shape:
        raise ValueError(
            f"got images of shape {shape}; expected (B, 3, H, W), RGB, no side 0{_shape_fix(shape)}"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"got images of {images.dtype}; expected floats in [0, 1]: divide 8-bit images by 255"
        )
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not -_TOLERANCE <= low <= high <= 1 + _TOLERANCE:  # written so that NaN is refused too
        raise ValueError(
            f"got images with values from {low:g} to {high:g}; expected [0, 1]: "
            "convert a decoder's output in [-1, 1] by (x / 2 + 0.5).clamp(0, 1)"
        )


def _shape_fix(shape: tuple[int, ...]) -> str:
    """Return how to fix images of a wrong shape, as the end of a message; empty if that is unknown."""
    if len(shape) == 3 and shape[0] == 3:
        return ": use images[None] for a batch of one"
    if len(shape) == 4 and shape[3] == 3:
        return ": use images.permute(0, 3, 1, 2) to put the channels first"
    if len(shape) == 4 and shape[1] == 1:
        return ": use images.expand(-1, 3, -1, -1) to convert grey to RGB"
    return ": use images[:, :3] to drop the transparency" if len(shape) == 4 and shape[1] == 4 else ""


def _invalid_prompts(prompts: Sequence[str] | None) -> str:
    """Return what was given instead of a list of texts, as part of a message; empty if it is one."""
    if prompts is None:
        return "no prompts"
    if isinstance(prompts, str):
        return f"one text, {prompts[:40]!r}, as prompts"
    if not isinstance(prompts, Sequence):
        return f"a {type(prompts).__name__} as prompts"
    for number, text in enumerate(prompts):
        if not isinstance(text, str):
            return f"a {type(text).__name__} as prompt {number}"
        # Such a string has no UTF-8 encoding, so tokenizers fail on it.
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            return f"an unpaired surrogate in prompt {number}"
    return ""
