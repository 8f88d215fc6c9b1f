"""From images to a model's input: one differentiable path for PIL images and tensors, named by a profile.

Most reward models were published with PIL's resize, which works on 8-bit pixels, weights them antialiased and
rounds after each direction. A profile with ``emulate_pil`` reproduces that bit for bit and passes gradients
straight through the rounding. Shapes: B batch, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

QWEN_BLOCK_PX, QWEN_MAX_RATIO = 28, 200
"""Pixels a side of one token of Qwen2-VL, 2 x 2 patches of 14, and the most oblong image that it reads."""

PIL_WEIGHT_BITS = 22
"""Fractional bits of the fixed-point weights in PIL's resize of 8-bit images (Resample.c: 32 - 8 - 2)."""


@dataclass(frozen=True)
class Profile:
    """How an image becomes a model's input.

    ``resize`` "shortest" scales the shortest side to ``size`` and crops the centre, "longest" scales the
    longest and pads with black, "pad" pads to a square with ``mean``, cut to a level of 8 bits, and scales
    that, "squash" scales both, "area" scales both to whole blocks of Qwen2-VL that cover about ``size`` x
    ``size`` pixels in nearly the image's own shape, "none" leaves the image as it is.
    """

    name: str
    resize: Literal["shortest", "longest", "pad", "squash", "area", "none"]
    size: int = 0
    """Height and width of the result, pixels; for "area" those of a square one."""
    emulate_pil: bool = True
    """Resize 8-bit pixels as PIL does; else floats as torch does, which overshoot [0, 1]."""
    antialias: bool = True
    """Without it (tensors only) shrinking skips pixels, as torchvision did until version 0.17."""
    kernel: Literal["bicubic", "bilinear"] = "bicubic"
    crop: Literal["round", "floor"] = "round"
    """Where an odd rest goes: torchvision rounds its half to even, transformers' processors floor it."""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


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
    """``images`` (B, 3, H, W), RGB in [0, 1], to the model's input (B, 3, H', W').

    H' and W' are the profile's ``size`` unless it keeps the image's shape. It is float32, or float64 of
    float64 images where no pixels of PIL's are emulated. Raises ValueError for an image that is too oblong
    for "area".
    """
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    if profile.resize != "none":
        images = _fit(images, profile)
    if profile.mean is None or profile.std is None:
        return images
    mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (profile.mean, profile.std))
    return (images - mean) / std


def to_tensor(image: Image) -> Tensor:
    """A PIL image of any 8-bit mode or 16-bit grey, as (3, H, W) RGB in [0, 1]; transparency is dropped."""
    if image.mode in ("I", "F"):
        raise ValueError(
            f"got an image of mode {image.mode}, which has no known range; expected an 8-bit mode or 16-bit "
            "grey: convert it to RGB first"
        )
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint16) >> 8
        array = np.repeat(levels.astype(np.uint8)[:, :, None], 3, axis=2)
    else:
        array = np.array(_rgb(image))
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def _rgb(image: Image) -> Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns of the transparency that it drops
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(
            f"got an image of mode {image.mode}, which PIL makes no RGB of; expected an 8-bit mode: "
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
        return resize(images, whole_blocks(height, width, size * size), profile)
    if profile.resize == "longest":
        scale = size / max(height, width)
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
        return _pad_centre(resize(images, target, profile), size)
    long = int(size * max(height, width) / min(height, width))
    target = (size, long) if height <= width else (long, size)
    return _crop_centre(resize(images, target, profile), size, profile.crop)


def whole_blocks(height: int, width: int, area: int) -> tuple[int, int]:
    """Height and width of whole blocks that cover about ``area`` pixels, as Qwen2-VL's smart_resize has them.

    That is with ``area`` as both its least and its most (qwen_vl_utils, vision_process.py; HPSv3's
    dataset/utils.py): a picture that is too large is floored to blocks, one that is too small is ceiled. The
    order of the divisions is theirs, since a rounding can move a side by a block. Raises ValueError.
    """
    if max(height, width) > QWEN_MAX_RATIO * min(height, width):
        raise ValueError(
            f"an image of {height} x {width} pixels is more than {QWEN_MAX_RATIO} times as long as it is "
            "wide, which Qwen2-VL does not read; crop it first"
        )
    block, sides = QWEN_BLOCK_PX, (height, width)
    down, right = (max(block, round(side / block) * block) for side in sides)
    if down * right > area:
        scale = math.sqrt(height * width / area)
        down, right = (math.floor(side / scale / block) * block for side in sides)
    elif down * right < area:
        scale = math.sqrt(area / (height * width))
        down, right = (math.ceil(side * scale / block) * block for side in sides)
    return down, right


def _crop_centre(images: Tensor, size: int, crop: Literal["round", "floor"]) -> Tensor:
    rest = (side - size for side in images.shape[-2:])
    top, left = (r // 2 if crop == "floor" else round(r / 2) for r in rest)
    return images[..., top : top + size, left : left + size]


def _pad_centre(images: Tensor, size: int) -> Tensor:
    down, right = (size - side for side in images.shape[-2:])
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))


def _pad_square(images: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """The images in the middle of a square as large as their longest side, of 8-bit levels of ``colour``."""
    height, width = images.shape[-2:]
    side = max(height, width)
    down, right = (side - height) // 2, (side - width) // 2
    levels = images.new_tensor([int(255 * value) for value in colour])
    square = (levels / 255).view(3, 1, 1).expand(len(images), 3, side, side).clone()
    square[..., down : down + height, right : right + width] = images
    return square


def _resize(images: Tensor, size: tuple[int, int], profile: Profile) -> Tensor:
    if size == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size, mode=profile.kernel, antialias=profile.antialias)


def _resize_like_pil(images: Tensor, size: tuple[int, int], profile: Profile) -> Tensor:
    """PIL's ``Image.resize`` of the 8-bit picture that ``images`` would be saved as.

    Width first, as Pillow did when the rewards were published; Pillow 13 begins with the height where that
    shrinks much more than the width, which a squash does, and the blocks of a very oblong picture. Exact
    because all products are multiples of 2^-22 that float64 holds; on a device without float64 (mps) a pixel
    may be off by one level.
    """
    height, width = images.shape[-2:]
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    levels = _levels(images.to(exact) * 255)
    if size[1] != width:
        levels = _levels(levels @ _weights(width, size[1], profile.kernel).to(levels).T)
    if size[0] != height:
        levels = _levels(_weights(height, size[0], profile.kernel).to(levels) @ levels)
    return (levels / 255).float()


class _Levels(torch.autograd.Function):
    """Values clipped to [0, 255] and rounded half up; the gradient passes where nothing is clipped."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((values >= 0) & (values <= 255))
        return (values + 0.5).floor_().clamp_(0, 255)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        inside: Tensor = ctx.saved_tensors[0]
        return gradient * inside


def _levels(values: Tensor) -> Tensor:
    found: Tensor = _Levels.apply(values)  # type: ignore[no-untyped-call]
    return found


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept from call to call: an inference tensor would bar gradients ever after
def _weights(inputs: int, outputs: int, kernel: Literal["bicubic", "bilinear"]) -> Tensor:
    """PIL's antialiased weights in fixed point, (outputs, inputs) float64 (Resample.c)."""
    support, weigh = (2, _bicubic) if kernel == "bicubic" else (1, _triangle)
    scale = inputs / outputs
    stretch = max(scale, 1.0)  # antialiasing: the kernel covers the source pixels of one result pixel
    centre = (np.arange(outputs)[:, None] + 0.5) * scale
    first = np.trunc(centre - support * stretch + 0.5).clip(min=0)
    last = np.trunc(centre + support * stretch + 0.5).clip(max=inputs)
    position = np.arange(inputs)[None, :]
    weights = weigh((position - centre + 0.5) / stretch) * ((position >= first) & (position < last))
    weights /= weights.sum(axis=1, keepdims=True)
    fixed = np.trunc(weights * 2**PIL_WEIGHT_BITS + np.copysign(0.5, weights)) / 2**PIL_WEIGHT_BITS
    return torch.from_numpy(fixed)


def _triangle(x: np.ndarray) -> np.ndarray:
    """The kernel of linear interpolation, support 1."""
    return np.where(np.abs(x) < 1, 1 - np.abs(x), 0.0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel (1981, equation 15): a = -1/2, support 2."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
