"""Pictures and prompts that rewards are checked on: plain ones, and whatever people and files do hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PROMPTS = (
    "a large red circle on a white background",
    "a small blue square on a grey background",
    "a yellow star left of a green triangle",
)

ODD_PROMPTS = (
    "",
    " \t\n ",
    "?!",
    "word " * 120,
    "x" * 400,
    "一只红色的大圆在白色背景上",
    "دائرة حمراء كبيرة",
    "большой красный круг",
    "लाल वृत्त",
    "👩🏽‍🚀 🔴 ⭐",
    "e\u0301 a\u030a n\u0303",  # letters with combining marks
    "\u200b\u202e\ufeff",  # no width, right to left, byte order
    "red\x00circle\x07\x1b[31m\x7f",
    "<|endoftext|> [SEP] </s>",
    "100 % {} {0} %s &amp; \\n",
)
"""What people and files do hold for prompts."""


def blobs(count: int, height: int = 40, width: int = 56) -> list[Image.Image]:
    """Smooth blobs of all colours, so that scores differ after any resize; the same at every call."""
    coarse = np.random.default_rng(7).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC) for array in coarse]


def tensors(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as (B, 3, H, W) in [0, 1]."""
    arrays = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous().float() / 255


def in_modes(image: Image.Image) -> dict[str, tuple[Image.Image, Image.Image]]:
    """The picture in each of PIL's modes, with the RGB picture of the same colours."""
    grey, alpha = image.convert("L"), image.convert("L").point(lambda level: 255 - level)
    palette, clear, half_clear = (image.quantize(16) for _ in range(3))
    clear.info["transparency"] = 3
    half_clear.info["transparency"] = bytes(range(0, 256, 16))
    colours = np.array(palette.getpalette(), dtype=np.uint8).reshape(-1, 3)
    quantized = Image.fromarray(colours[np.asarray(palette)])
    grey_rgb = Image.merge("RGB", (grey, grey, grey))
    deep = np.asarray(grey).astype(np.uint16) * 256 + 77
    bits = image.convert("1")
    ink = image.convert("CMYK")
    return {
        "L": (grey, grey_rgb),
        "LA": (Image.merge("LA", (grey, alpha)), grey_rgb),
        "RGBA": (Image.merge("RGBA", (*image.split(), alpha)), image),
        "P": (palette, quantized),
        "P with a clear colour": (clear, quantized),
        "P with half clear colours": (half_clear, quantized),
        "1": (bits, Image.fromarray(np.repeat(np.asarray(bits)[..., None] * np.uint8(255), 3, axis=2))),
        "CMYK": (ink, ink.convert("RGB")),
        "I;16": (Image.fromarray(deep), grey_rgb),
    }
