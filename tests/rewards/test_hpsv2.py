from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

import rewards
from rewards.base import Reward
from rewards.hpsv2 import HPSv2
from rewards.preprocess import CLIP_MEAN, CLIP_STD
from rewards.tokens import OpenClipTokenizer
from rewards.weights import WrongWeights


def published_input(image: Image.Image, antialias: bool) -> Tensor:
    """The official transform, in torchvision's words: fit the longest side to 224, pad with black."""
    tensor = torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)
    scale = 224 / max(tensor.shape[1:])
    size = [round(side * scale) for side in tensor.shape[1:]]
    inner = TF.resize(tensor, size, v2.InterpolationMode.BICUBIC, antialias=antialias)
    down, right = 224 - inner.shape[1], 224 - inner.shape[2]
    padded = TF.pad(inner, [right // 2, down // 2, right - right // 2, down - down // 2])
    return TF.normalize(padded, list(CLIP_MEAN), list(CLIP_STD))[None]


@pytest.mark.parametrize("name", ["hpsv2", "hpsv2-antialias", "hpsv2.1", "hpsv2.1-antialias"])
def test_the_score_is_the_bare_cosine_on_the_official_input(
    tiny: Callable[[str], Reward], shared_data: Path, name: str
) -> None:
    reward = tiny(name)
    assert isinstance(reward, HPSv2)
    image, prompt = Image.open(shared_data / "photos/chelsea.png").convert("RGB"), "a cat with two horns"
    model = reward.towers.model
    pixels = published_input(image, antialias=name.endswith("antialias"))
    features = [model.encode_image(pixels), model.encode_text(OpenClipTokenizer()([prompt]).ids)]
    expected = torch.cosine_similarity(*features).item()
    assert reward.score([image], [prompt]).item() == pytest.approx(expected, abs=1e-6)


def test_a_checkpoint_of_another_layout_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(WrongWeights, match="has no state_dict; expected the published checkpoint"):
        rewards.load("hpsv2", weights={"checkpoint": tmp_path / "other.pt"})
