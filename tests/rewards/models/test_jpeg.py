"""The two JPEG rewards against a file on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rewards


def test_score_is_the_size_of_pillows_jpeg_file(shared_data: Path, tmp_path: Path) -> None:
    image = Image.open(shared_data / "photos/chelsea.png").convert("RGB")
    image.save(tmp_path / "photo.jpg", quality=95)
    kilobytes = (tmp_path / "photo.jpg").stat().st_size / 1000
    assert rewards.score("jpeg-incompressibility", [image]).item() == pytest.approx(kilobytes)
    assert rewards.score("jpeg-compressibility", [image]).item() == pytest.approx(-kilobytes)


def test_noise_compresses_worse_than_a_plain_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = [Image.fromarray(noise), Image.new("RGB", (64, 64), "red")]
    first, second = rewards.score("jpeg-incompressibility", images).tolist()
    assert first > 5 * second
