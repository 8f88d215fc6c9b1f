"""From images to a model's input: one differentiable path for PIL images and tensors, named by a profile.

Most reward models were published with PIL's resize. It works on 8-bit pixels, antialiases, and rounds to 8
bits after each direction. A profile with ``emulate_pil`` reproduces its result bit for bit, also from float
tensors, and passes gradients straight through the rounding. Shapes: B batch, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

_QWEN_BLOCK_PX = 28
"""Side of the image block of one token of Qwen2-VL, pixels: 2 x 2 patches of 14."""
_QWEN_MAX_RATIO = 200
"""Largest ratio of the sides of an image that Qwen2-VL reads."""

_PIL_WEIGHT_BITS = 22
"""Fractional bits of the fixed-point weights in PIL's resize of 8-bit images (Resample.c: 32 - 8 - 2)."""


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
    kernel: Literal["bicubic", "bilinear"] = "bicubic"
    crop: Literal["round", "floor"] = "round"
    """Rounding of half an odd margin: torchvision rounds to even, transformers' processors round down."""
    mean: tuple[float, float, float] | None = None
    """Subtracted from pixels in [0, 1], by channel; None skips the normalisation."""
    std: tuple[float, float, float] | None = None
    """Divides the pixels after that, by channel."""


def _clip(size: int, crop: Literal["round", "floor"] = "round") -> Profile:
    name = f"clip-{size}" if crop == "round" else f"clip-{size}-floor"
    return Profile(name, "shortest", size, crop=crop, mean=CLIP_MEAN, std=CLIP_STD)


def _hps(size: int, antialias: bool) -> Profile:
    name = f"hps-{size}-antialias" if antialias else f"hps-{size}"
    return Profile(name, "longest", size, False, antialias, mean=CLIP_MEAN, std=CLIP_STD)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("raw", "none", emulate_pil=False),
        _clip(224),
        _clip(224, "floor"),
        _clip(64),
        _clip(64, "floor"),
        _hps(224, antialias=False),
        _hps(224, antialias=True),
        _hps(64, antialias=False),
        Profile("siglip-64", "squash", 64, mean=HALF, std=HALF),
        Profile("squash-64", "squash", 64),
        Profile("llava-336", "pad", 336, mean=CLIP_MEAN, std=CLIP_STD),
        Profile("siglip-384", "squash", 384, mean=HALF, std=HALF),
        Profile("qwen-448", "area", 448, mean=CLIP_MEAN, std=CLIP_STD),
        Profile("siglip2-384", "squash", 384, kernel="bilinear", mean=HALF, std=HALF),
        Profile("clip-native", "none", emulate_pil=False, mean=CLIP_MEAN, std=CLIP_STD),
    )
}


def preprocess(images: Tensor, profile: Profile) -> Tensor:
    """Preprocess images, differentiably.

    Args:
        images: Float tensor (B, 3, H, W), RGB in [0, 1].
        profile: What to do.

    Returns:
        The model's input (B, 3, H', W'); H' and W' are the profile's ``size`` unless it keeps the image's
        shape. float32, or float64 for float64 images if the profile does not emulate PIL.

    Raises:
        ValueError: If an image is too elongated for "area".
    """
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    if profile.resize != "none":
        images = _fit(images, profile)
    if profile.mean is None or profile.std is None:
        return images
    mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (profile.mean, profile.std))
    return (images - mean) / std


def to_tensor(image: Image) -> Tensor:
    """Convert a PIL image to a tensor (3, H, W), RGB in [0, 1]; transparency is dropped.

    Args:
        image: An image of any 8-bit mode or 16-bit grey.

    Raises:
        ValueError: If the mode cannot be converted.
    """
    if image.mode in ("I", "F"):
        raise ValueError(
            f"got an image of mode {image.mode}, whose range is unknown; expected an 8-bit mode or 16-bit "
            "grey: convert it to RGB first"
        )
    if image.mode.startswith("I;16"):
        # PIL would clip 16-bit grey to 255 instead of scaling it.
        levels = np.asarray(image).astype(np.uint16) >> 8
        array = np.repeat(levels.astype(np.uint8)[:, :, None], 3, axis=2)
    else:
        array = np.array(_rgb(image))
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Convert images, float (B, 3, H, W) in [0, 1], to uint8 (B, H, W, 3), rounded to the nearest level."""
    levels = (images.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round()
    array: NDArray[np.uint8] = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return array


def _rgb(image: Image) -> Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL would warn of the dropped transparency
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(
            f"got an image of mode {image.mode}, which PIL cannot convert to RGB; expected an 8-bit mode: "
            "convert it to LA, RGBA or RGB first"
        ) from error


def _fit(images: Tensor, profile: Profile) -> Tensor:
    height, width = images.shape[-2:]
    size, resize = profile.size, _resize_like_pil if profile.emulate_pil else _resize
    if profile.resize == "pad":
        images = _pad_square(images, profile.mean or HALF)
    if profile.resize in ("pad", "squash"):
        return resize(images, (size, size), profile)
    if profile.resize == "area":
        return resize(images, _whole_blocks(height, width, size * size), profile)
    if profile.resize == "longest":
        scale = size / max(height, width)
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
        return _pad_centre(resize(images, target, profile), size)
    # "shortest". torchvision truncates the longer side, so it is not rounded here either.
    long = int(size * max(height, width) / min(height, width))
    target = (size, long) if height <= width else (long, size)
    return _crop_centre(resize(images, target, profile), size, profile.crop)


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


def _crop_centre(images: Tensor, size: int, crop: Literal["round", "floor"]) -> Tensor:
    margins = (side - size for side in images.shape[-2:])
    top, left = (margin // 2 if crop == "floor" else round(margin / 2) for margin in margins)
    return images[..., top : top + size, left : left + size]


def _pad_centre(images: Tensor, size: int) -> Tensor:
    down, right = (size - side for side in images.shape[-2:])
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))


def _pad_square(images: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """Pad images to a square of the longest side with the 8-bit levels of ``colour``."""
    height, width = images.shape[-2:]
    side = max(height, width)
    down, right = (side - height) // 2, (side - width) // 2
    # The official code pads a PIL image, whose background colour is truncated to 8 bits.
    levels = images.new_tensor([int(255 * value) for value in colour])
    square = (levels / 255).view(3, 1, 1).expand(len(images), 3, side, side).clone()
    square[..., down : down + height, right : right + width] = images
    return square


def _resize(images: Tensor, size: tuple[int, int], profile: Profile) -> Tensor:
    if size == tuple(images.shape[-2:]):
        return images
    # Not clamped to [0, 1]: bicubic overshoots at edges, and so did the published scores of such profiles.
    return F.interpolate(images, size, mode=profile.kernel, antialias=profile.antialias)


def _resize_like_pil(images: Tensor, size: tuple[int, int], profile: Profile) -> Tensor:
    """Round images to 8 bits and resize them with the result of PIL's ``Image.resize``."""
    height, width = images.shape[-2:]
    # PIL computes in integers. Levels times fixed-point weights are multiples of 2^-22 below 2^9 or so, which
    # float64 adds without any error, so rounding gives the same level. float32 would not hold them; on a
    # device without float64 (mps) a pixel may be off by one level.
    dtype = torch.float32 if images.device.type == "mps" else torch.float64
    levels = _to_levels(images.to(dtype) * 255)
    # Width first, then height, with a rounding to 8 bits in between, as Pillow did when the rewards were
    # published. Pillow 13 begins with the height if that shrinks much more than the width; a score must not
    # depend on Pillow's version.
    if size[1] != width:
        levels = _to_levels(levels @ _pil_weights(width, size[1], profile.kernel).to(levels).T)
    if size[0] != height:
        levels = _to_levels(_pil_weights(height, size[0], profile.kernel).to(levels) @ levels)
    return (levels / 255).float()


class _Levels(torch.autograd.Function):
    """Clip to [0, 255] and round half up, with a straight-through gradient.

    The derivative of rounding is 0 almost everywhere, which would stop all gradients, so rounding counts as
    the identity. Clipping does not: a pixel that is clipped (PIL's bicubic overshoots at edges) does not
    change with its input, and its gradient is 0.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((values >= 0) & (values <= 255))
        return (values + 0.5).floor_().clamp_(0, 255)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        inside: Tensor = ctx.saved_tensors[0]
        return gradient * inside


def _to_levels(values: Tensor) -> Tensor:
    levels: Tensor = _Levels.apply(values)  # type: ignore[no-untyped-call]
    return levels


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached: an inference tensor would be unusable in later calls with gradients
def _pil_weights(inputs: int, outputs: int, kernel: Literal["bicubic", "bilinear"]) -> Tensor:
    """Return PIL's antialiased weights (outputs, inputs), float64 (Resample.c, precompute_coeffs)."""
    support, evaluate = (2, _bicubic) if kernel == "bicubic" else (1, _triangle)
    scale = inputs / outputs
    # Antialiasing: when shrinking, the kernel is stretched to cover the input pixels of one output pixel.
    stretch = max(scale, 1.0)
    centre = (np.arange(outputs)[:, None] + 0.5) * scale
    first = np.trunc(centre - support * stretch + 0.5).clip(min=0)
    last = np.trunc(centre + support * stretch + 0.5).clip(max=inputs)
    position = np.arange(inputs)[None, :]
    weights = evaluate((position - centre + 0.5) / stretch) * ((position >= first) & (position < last))
    weights /= weights.sum(axis=1, keepdims=True)
    # PIL's fixed point rounds half away from zero (normalize_coeffs_8bpc).
    fixed = np.trunc(weights * 2**_PIL_WEIGHT_BITS + np.copysign(0.5, weights)) / 2**_PIL_WEIGHT_BITS
    return torch.from_numpy(fixed)


def _triangle(x: np.ndarray) -> np.ndarray:
    """Kernel of linear interpolation, support 1."""
    return np.where(np.abs(x) < 1, 1 - np.abs(x), 0.0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel (Keys 1981, equation 15) with a = -1/2, support 2."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
