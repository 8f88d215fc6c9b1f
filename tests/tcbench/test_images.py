from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from tcbench.images import upright

ORIENTATION = 0x0112


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8))


def tagged(orientation: int, kind: str = "PNG") -> Image.Image:
    """A picture as it is read from a file that carries the tag."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    picture().save(file, kind, exif=exif, lossless=True)
    return Image.open(file)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int, kind: str) -> None:
    expected = ImageOps.exif_transpose(tagged(orientation, kind))
    once = upright(tagged(orientation, kind))
    assert np.array_equal(np.asarray(once), np.asarray(expected))
    assert np.array_equal(np.asarray(upright(once)), np.asarray(expected))  # the tag is gone


def test_tag_survives_a_conversion_of_the_mode() -> None:
    converted = tagged(6).convert("L")
    assert upright(converted).size == (5, 8)


@pytest.mark.parametrize(
    "exif", [b"MM", b"nonsense", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x01\0", b"x"]
)
def test_damaged_metadata_are_no_orientation(exif: bytes) -> None:
    image = picture()
    image.info["exif"] = b"Exif\0\0" + exif
    assert upright(image) is image


def test_image_in_memory_stays_the_same_object() -> None:
    image = picture()
    assert upright(image) is image
