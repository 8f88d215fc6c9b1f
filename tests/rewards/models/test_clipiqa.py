"""CLIP-IQA against a direct computation with open_clip's modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rewards
from rewards.base import Reward
from rewards.verification.references import load_reference
from rewards.verification.tiny.checkpoints import tiny_record
from tcbench.errors import MismatchError


@pytest.mark.parametrize("size", [(64, 64), (72, 100)])
def test_score_is_the_softmax_over_both_captions_at_any_size(
    tiny_files: Callable[[str], Mapping[str, Path]], size: tuple[int, int]
) -> None:
    folder = tiny_files("clip-iqa")["backbone"]
    reward = rewards.load(tiny_record(rewards.info("clip-iqa")), weights={"backbone": folder})
    levels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    assert reward.score([picture]).item() == pytest.approx(
        load_reference("clipiqa")({"backbone": folder}, picture, ""), abs=1e-5
    )


def test_too_small_image_is_refused(tiny: Callable[[str], Reward]) -> None:
    with pytest.raises(ValueError, match="got an image of 16 x 40 pixels; expected at least 32"):
        tiny("clip-iqa").score(torch.rand(1, 3, 16, 40))


def test_clip_without_resnet_is_refused(tiny_files: Callable[[str], Mapping[str, Path]]) -> None:
    with pytest.raises(MismatchError, match="is not a ResNet CLIP"):
        rewards.load(
            tiny_record(rewards.info("clip-iqa")), weights={"backbone": tiny_files("clip")["backbone"]}
        )
