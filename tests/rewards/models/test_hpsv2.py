from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import rewards
from rewards.base import Reward
from rewards.verification.references import load_reference
from tcbench.errors import MismatchError


@pytest.mark.parametrize("name", ["hpsv2", "hpsv2-antialias", "hpsv2.1", "hpsv2.1-antialias"])
def test_score_is_the_cosine_on_the_official_input(
    tiny: Callable[[str], Reward], shared_data: Path, name: str
) -> None:
    reward = tiny(name)
    image, prompt = Image.open(shared_data / "photos/chelsea.png").convert("RGB"), "a cat with two horns"
    architecture, antialias = str(reward.info.options["architecture"]), name.endswith("antialias")
    expected = load_reference("hpsv2")(
        reward.files, image, prompt, architecture=architecture, antialias=antialias
    )
    assert reward.score([image], [prompt]).item() == pytest.approx(expected, abs=1e-6)


def test_checkpoint_without_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(MismatchError, match="has no state_dict; expected the published checkpoint"):
        rewards.load("hpsv2", weights={"checkpoint": tmp_path / "other.pt"})
