from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from rewards.verification.pictures import load_photos


@pytest.fixture(scope="session")
def photographs(shared_data: Path) -> dict[str, Image.Image]:
    """Real photographs: two that are not square, and one that is."""
    return load_photos(shared_data / "photos", 3)
