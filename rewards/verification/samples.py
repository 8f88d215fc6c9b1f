"""Images and prompts that rewards are checked on: plain ones, and unusual ones that occur in practice."""

from __future__ import annotations

import numpy as np
from PIL import Image

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
    "\u200b\u202e\ufeff",  # zero width space, right-to-left override, byte order mark
    "red\x00circle\x07\x1b[31m\x7f",
    "<|endoftext|> [SEP] </s>",
    "100 % {} {0} %s &amp; \\n",
)
"""Prompts that occur in files and that tokenizers or templates may fail on."""


def blobs(count: int, height: int = 40, width: int = 56) -> list[Image.Image]:
    """Return smooth random blobs, the same at every call; they stay distinct at any size."""
    coarse = np.random.default_rng(7).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC) for array in coarse]


def in_modes(image: Image.Image) -> dict[str, tuple[Image.Image, Image.Image]]:
    """Return the image in each of PIL's modes, with an RGB image of the same colors."""
    grey, alpha = image.convert("L"), image.convert("L").point(lambda level: 255 - level)
    palette, transparent, translucent = (image.quantize(16) for _ in range(3))
    transparent.info["transparency"] = 3
    translucent.info["transparency"] = bytes(range(0, 256, 16))
    colors = np.array(palette.getpalette(), dtype=np.uint8).reshape(-1, 3)
    quantized = Image.fromarray(colors[np.asarray(palette)])
    grey_rgb = Image.merge("RGB", (grey, grey, grey))
    # The low byte is not zero, so that rounding instead of dropping it would show.
    deep = np.asarray(grey).astype(np.uint16) * 256 + 77
    bits = image.convert("1")
    cmyk = image.convert("CMYK")
    return {
        "L": (grey, grey_rgb),
        "LA": (Image.merge("LA", (grey, alpha)), grey_rgb),
        "RGBA": (Image.merge("RGBA", (*image.split(), alpha)), image),
        "P": (palette, quantized),
        "P with a transparent color": (transparent, quantized),
        "P with translucent colors": (translucent, quantized),
        "1": (bits, Image.fromarray(np.repeat(np.asarray(bits)[..., None] * np.uint8(255), 3, axis=2))),
        "CMYK": (cmyk, cmyk.convert("RGB")),
        "I;16": (Image.fromarray(deep), grey_rgb),
    }
