"""From images to a model's input: one differentiable path for PIL images and tensors, named by a profile.

Most reward models were published with PIL's resize. It works on 8-bit pixels, antialiases, and rounds to 8
bits after each direction. A profile with ``emulate_pil`` has its result bit for bit: PIL images are resized
by PIL and tensors by `rewards.resample` with the same pixels. Shapes: B batch, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as pil
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from rewards.resample import Kernel, Side, resize_like_pil
from tcbench.images import upright

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

_QWEN_BLOCK_PX = 28
"""Side of the image block of one token of Qwen2-VL, pixels: 2 x 2 patches of 14."""
_QWEN_MAX_RATIO = 200
"""Largest ratio of the sides of an image that Qwen2-VL reads."""

_PIL_PIXELS = 2**25
"""Largest image that PIL may make on the way to the kept part of the result. It computes all of the resized
image before it is cropped; a line of 1 x 20,000 pixels would become 224 x 4,480,000."""

_BY_BAND = ("L", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
"""Modes of 8-bit channels that PIL resizes each by itself; 1 and P have no values between two pixels."""
_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}
"""Premultiplied modes, so that a pixel's colour is weighted by its opacity."""


@dataclass(frozen=True)
class Profile:
    """How an image becomes a model's input. Names and values are part of the score id."""

    name: str
    resize: Literal["shortest", "longest", "pad", "squash", "area", "none"]
    """
    - "shortest": scale the shortest side to ``size`` and crop the centre.
    - "longest": scale the longest side to ``size`` and pad with black.
    - "pad": pad to a square with ``mean``, rounded down to a level of 8 bits, and scale that.
    - "squash": scale both sides to ``size``.
    - "area": scale to whole blocks of Qwen2-VL that cover about ``size`` x ``size`` pixels, nearly in the
      image's shape.
    - "none": keep the image.
    """
    size: int = 0
    """Height and width of the result in pixels; for "area" those of a square image."""
    emulate_pil: bool = True
    """Resize 8-bit pixels as PIL does; otherwise floats as torch does, which can leave [0, 1]."""
    antialias: bool = True
    """Without it (tensors only) shrinking skips pixels, as torchvision did until version 0.17."""
    kernel: Kernel = "bicubic"
    crop: Literal["round", "floor"] = "round"
    """Rounding of half an odd margin: torchvision rounds to even, transformers' processors round down."""
    mean: tuple[float, float, float] | None = None
    """Subtracted from pixels in [0, 1], by channel; None skips the normalisation."""
    std: tuple[float, float, float] | None = None
    """Divides the pixels after that, by channel."""
    convert: Literal["first", "last"] = "first"
    """When a PIL image of another mode becomes RGB: before it is resized, or after it is resized and cropped,
    which is OpenAI's order. With "last", pixels of a palette or of 1 bit are picked, not interpolated, and
    transparent pixels count less."""
    version: int = 1
    """Raised when the same settings give other pixels. 2: images are turned as their orientation tag says.
    Profiles that the embedded world uses stay at 1: its images are generated and carry no tag."""


def _clip(size: int, crop: Literal["round", "floor"] = "round") -> Profile:
    name = f"clip-{size}" if crop == "round" else f"clip-{size}-floor"
    return Profile(name, "shortest", size, crop=crop, mean=CLIP_MEAN, std=CLIP_STD)


def _hps(size: int, antialias: bool) -> Profile:
    name = f"hps-{size}-antialias" if antialias else f"hps-{size}"
    return Profile(name, "longest", size, False, antialias, mean=CLIP_MEAN, std=CLIP_STD)


_OF_WORLD = (
    _clip(64),
    _clip(64, "floor"),
    _hps(64, antialias=False),
    Profile("siglip-64", "squash", 64, mean=HALF, std=HALF),
    Profile("squash-64", "squash", 64),
)
_OF_PUBLISHED = (
    Profile("raw", "none", emulate_pil=False),
    # The transforms of openai/CLIP, jmhessel/clipscore and ImageReward convert last. Processors of
    # transformers, the image loaders of MPS, VQAScore and HPSv3, and HPSv2's transform convert first.
    replace(_clip(224), convert="last"),
    _clip(224, "floor"),
    _hps(224, antialias=False),
    _hps(224, antialias=True),
    Profile("llava-336", "pad", 336, mean=CLIP_MEAN, std=CLIP_STD),
    Profile("siglip-384", "squash", 384, mean=HALF, std=HALF),
    Profile("qwen-448", "area", 448, mean=CLIP_MEAN, std=CLIP_STD),
    Profile("siglip2-384", "squash", 384, kernel="bilinear", mean=HALF, std=HALF),
    Profile("clip-native", "none", emulate_pil=False, mean=CLIP_MEAN, std=CLIP_STD),
)
PROFILES = {
    profile.name: profile
    for profile in (*_OF_WORLD, *(replace(profile, version=2) for profile in _OF_PUBLISHED))
}


def preprocess(images: Tensor | Image, profile: Profile) -> Tensor:
    """Preprocess images; tensors differentiably.

    Args:
        images: Float tensor (B, 3, H, W), RGB in [0, 1]; or one PIL image of a mode that `to_tensor` takes.
        profile: What to do.

    Returns:
        The model's input (B, 3, H', W'); H' and W' are the profile's ``size`` unless it keeps the image's
        shape. float32, or float64 for float64 images if the profile does not emulate PIL.

    Raises:
        ValueError: If an image is too elongated for "area", or its mode cannot be converted.
    """
    if isinstance(images, Image) and profile.emulate_pil and profile.resize != "none":
        images = _fit_by_pil(upright(images), profile)
    else:
        if isinstance(images, Image):
            images = to_tensor(images)[None]
        images = _fit(images.to(torch.promote_types(images.dtype, torch.float32)), profile)
    if profile.resize == "longest":
        images = _pad_centre(images, profile.size)
    if profile.mean is None or profile.std is None:
        return images
    mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (profile.mean, profile.std))
    return (images - mean) / std


def to_tensor(image: Image) -> Tensor:
    """Convert a PIL image to a tensor (3, H, W), RGB in [0, 1].

    The image is turned as its orientation tag says; transparency is dropped.

    Args:
        image: An image of any 8-bit mode or 16-bit grey.

    Raises:
        ValueError: If the mode cannot be converted.
    """
    array = np.array(_rgb(upright(image)))
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Convert images, float (B, 3, H, W) in [0, 1], to uint8 (B, H, W, 3), rounded to the nearest level."""
    levels = (images.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round()
    array: NDArray[np.uint8] = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return array


def _rgb(image: Image) -> Image:
    if image.mode in ("I", "F"):
        raise ValueError(
            f"got an image of mode {image.mode}, whose range is unknown; expected an 8-bit mode or 16-bit "
            "grey: convert it to RGB first"
        )
    if image.mode.startswith("I;16"):
        # PIL would clip 16-bit grey to 255 instead of scaling it.
        levels = np.asarray(image).astype(np.uint16) >> 8
        image = pil.fromarray(levels.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL would warn of the dropped transparency
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(
            f"got an image of mode {image.mode}, which PIL cannot convert to RGB; expected an 8-bit mode: "
            "convert it to LA, RGBA or RGB first"
        ) from error


def _fit_by_pil(image: Image, profile: Profile) -> Tensor:
    """Return the pixels (1, 3, H, W) in [0, 1] of an image that PIL has resized and cropped."""
    if profile.convert == "first" or image.mode not in (*_BY_BAND, "1", "P"):
        image = _rgb(image)
    rows, columns = _sides(image.height, image.width, profile)
    if (rows.size, columns.size) == (image.height, image.width):
        box = (columns.start, rows.start, columns.start + columns.kept, rows.start + rows.kept)
        return to_tensor(image.crop(box))[None]
    if image.mode in ("1", "P"):
        return to_tensor(_pick(_rgb(image), rows, columns))[None]
    largest = max(rows.pixels * columns.pixels, max(rows.pixels, rows.size) * columns.size)
    resize = _resize_by_pil if largest <= _PIL_PIXELS else _resize_bands
    return to_tensor(resize(image, rows, columns, profile))[None]


def _resize_by_pil(image: Image, rows: Side, columns: Side, profile: Profile) -> Image:
    mode, colour = image.mode, _padding(profile)
    if colour and (rows.pixels, columns.pixels) != (image.height, image.width):
        canvas = pil.new(mode, (columns.pixels, rows.pixels), colour)
        canvas.paste(image, (columns.before, rows.before))
        image = canvas
    kernel = pil.Resampling[profile.kernel.upper()]
    image = image.convert(_PREMULTIPLIED.get(mode, mode))
    # One direction at a time, because the order that a single call takes depends on the version of Pillow.
    for size in ((columns.size, image.height), (columns.size, rows.size)):
        image = image.resize(size, kernel)
    right, bottom = columns.start + columns.kept, rows.start + rows.kept
    return image.crop((columns.start, rows.start, right, bottom)).convert(mode)


def _resize_bands(image: Image, rows: Side, columns: Side, profile: Profile) -> Image:
    """Resize with PIL's result, without making what is cropped afterwards."""
    mode, drawn = image.mode, _PREMULTIPLIED.get(image.mode, image.mode)
    array = np.array(image.convert(drawn))
    bands = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)[None]
    resized = resize_like_pil(bands, rows, columns, profile.kernel, _padding(profile))
    levels = (resized[0] * 255).round().byte().permute(1, 2, 0).contiguous()
    return pil.frombytes(drawn, (columns.kept, rows.kept), levels.numpy().tobytes()).convert(mode)


def _pick(image: Image, rows: Side, columns: Side) -> Image:
    """Resize by the nearest pixel: PIL's resize of pixels that have no values between them."""
    lines, cells = (_nearest(side) for side in (rows, columns))
    return pil.fromarray(np.array(image)[lines][:, cells])


def _nearest(side: Side) -> NDArray[np.intp]:
    """Return the pixel that each kept output pixel shows (Geometry.c, ImagingScaleAffine)."""
    step = side.pixels / side.size
    # PIL adds up the steps, whose rounding decides where an output pixel lies between two pixels.
    centres = np.cumsum(np.concatenate([[step / 2], np.full(side.start + side.kept - 1, step)]))
    return centres[side.start :].astype(np.intp)


def _fit(images: Tensor, profile: Profile) -> Tensor:
    if profile.resize == "none":
        return images
    height, width = images.shape[-2:]
    rows, columns = _sides(height, width, profile)
    if profile.emulate_pil:
        return resize_like_pil(images, rows, columns, profile.kernel, _padding(profile))
    if profile.resize == "pad":
        images = _pad_square(images, rows, columns, _padding(profile))
    if (rows.size, columns.size) != tuple(images.shape[-2:]):
        # Not clamped to [0, 1]: bicubic overshoots at edges, and so did the published scores.
        size = (rows.size, columns.size)
        images = F.interpolate(images, size, mode=profile.kernel, antialias=profile.antialias)
    bottom, right = rows.start + rows.kept, columns.start + columns.kept
    return images[..., rows.start : bottom, columns.start : right]


def _sides(height: int, width: int, profile: Profile) -> tuple[Side, Side]:
    """Return how a profile changes the height and the width of an image."""
    size, sides = profile.size, (height, width)
    if profile.resize == "pad":
        longest = max(sides)
        return _both(Side(longest, (longest - side) // 2, size, 0, size) for side in sides)
    if profile.resize == "squash":
        targets = (size, size)
    elif profile.resize == "area":
        targets = _whole_blocks(height, width, size * size)
    elif profile.resize == "longest":
        scale = size / max(sides)
        targets = (max(1, round(height * scale)), max(1, round(width * scale)))
    else:
        # "shortest". torchvision truncates the longer side, so it is not rounded here either.
        long = int(size * max(sides) / min(sides))
        targets = (size, long) if height <= width else (long, size)
        return _both(
            Side(side, 0, target, _margin(target - size, profile.crop), size)
            for side, target in zip(sides, targets, strict=True)
        )
    return _both(Side(side, 0, target, 0, target) for side, target in zip(sides, targets, strict=True))


def _both(sides: Iterable[Side]) -> tuple[Side, Side]:
    rows, columns = sides
    return rows, columns


def _margin(surplus: int, crop: Literal["round", "floor"]) -> int:
    return surplus // 2 if crop == "floor" else round(surplus / 2)


def _whole_blocks(height: int, width: int, area: int) -> tuple[int, int]:
    """Return height and width in whole blocks that cover about ``area`` pixels: Qwen2-VL's smart_resize.

    ``area`` is both its min_pixels and its max_pixels (qwen_vl_utils, vision_process.py; HPSv3's
    dataset/utils.py): an image that is too large is rounded down to blocks, one that is too small is rounded
    up.
    """
    if max(height, width) > _QWEN_MAX_RATIO * min(height, width):
        raise ValueError(
            f"got an image of {height} x {width} pixels; Qwen2-VL reads sides of a ratio up to "
            f"{_QWEN_MAX_RATIO}: crop it first"
        )
    block, sides = _QWEN_BLOCK_PX, (height, width)
    rows, columns = (max(block, round(side / block) * block) for side in sides)
    # Multiplications and divisions in the official order: another rounding can move a side by a block.
    if rows * columns > area:
        scale = math.sqrt(height * width / area)
        rows, columns = (math.floor(side / scale / block) * block for side in sides)
    elif rows * columns < area:
        scale = math.sqrt(area / (height * width))
        rows, columns = (math.ceil(side * scale / block) * block for side in sides)
    return rows, columns


def _padding(profile: Profile) -> tuple[int, ...]:
    """Return the 8-bit colour that a profile pads images with before the resize, if it does."""
    # The official code pads a PIL image, whose background colour is truncated to 8 bits.
    return tuple(int(255 * value) for value in profile.mean or HALF) if profile.resize == "pad" else ()


def _pad_centre(images: Tensor, size: int) -> Tensor:
    down, right = (size - side for side in images.shape[-2:])
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))


def _pad_square(images: Tensor, rows: Side, columns: Side, colour: tuple[int, ...]) -> Tensor:
    height, width = images.shape[-2:]
    levels = images.new_tensor(colour) / 255
    square = levels.view(3, 1, 1).expand(len(images), 3, rows.pixels, columns.pixels).clone()
    square[..., rows.before : rows.before + height, columns.before : columns.before + width] = images
    return square
