from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tcbench.images import open_image, upright

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


def test_whatever_a_decoder_raises_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png is not an image that PIL can read"):
        open_image(file)
    picture().save(file)
    assert open_image(file).size == (8, 5)
    assert open_image(tmp_path / "gone.png", file.read_bytes()).size == (8, 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded: Image size \(40 pixels\) exceeds"):
        open_image(file)


def test_too_little_memory_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: object) -> None:
        raise MemoryError

    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", out_of_memory)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", out_of_memory)
    with pytest.raises(MemoryError):
        open_image(tmp_path / "a.png")
