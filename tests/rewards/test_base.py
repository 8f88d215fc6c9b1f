from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rewards.base import Reward, score_id
from rewards.info import RewardInfo
from rewards.preprocess import PROFILES


class Redness(Reward):
    """Mean of the red channel."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return pixels[:, 0].mean(dim=(1, 2))


class RednessAndLength(Redness):
    """Mean of the red channel plus the number of letters of the prompt."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels, prompts) + torch.tensor([len(prompt) for prompt in prompts])


class Squeezed(Reward):
    """A common mistake: squeeze() drops the batch axis at batch size 1."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return pixels.mean(dim=(1, 2, 3)).squeeze()


INFO = RewardInfo("redness")
GREY = torch.full((2, 3, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GREY[0], r"got images of shape \(3, 8, 8\); expected \(B, 3, H, W\).*: use images\[None\]"),
        (GREY[:, :1], r"shape \(2, 1, 8, 8\).*: use images.expand\(-1, 3, -1, -1\)"),
        (torch.cat([GREY, GREY[:, :1]], dim=1), r"shape \(2, 4, 8, 8\).*: use images\[:, :3\] to drop"),
        (GREY.permute(0, 2, 3, 1), r"shape \(2, 8, 8, 3\).*: use images.permute\(0, 3, 1, 2\)"),
        (GREY[:, 0, 0], r"shape \(2, 8\); expected .* no side 0$"),
        (GREY[:0], r"shape \(0, 3, 8, 8\)"),
        (
            (GREY * 255).to(torch.uint8),
            "got images of torch.uint8; expected floats .*: divide 8-bit images by",
        ),
        (GREY * 255, r"values from 127.5 to 127.5; expected \[0, 1\]"),
        (GREY - 1, r"values from -0.5 to -0.5; .*x / 2 \+ 0.5"),
        (GREY * float("nan"), "values from nan to nan"),
        ([], "got no images; expected a list of PIL images or one float tensor .*: give at least one"),
        ([np.zeros((8, 8, 3))] * 2, "got a list with a ndarray as images; expected a list of PIL images"),
        (list(GREY), "got a list with a Tensor as images; .*: use torch.stack"),
        (Image.new("RGB", (8, 8)), r"got a Image as images; .*: put a single image into a list"),
        ([Image.new("F", (8, 8))] * 2, "an image of mode F, whose range is unknown; expected"),
        ([Image.new("La", (8, 8))] * 2, "an image of mode La, which PIL cannot convert to RGB; expected"),
    ],
)
def test_invalid_images_are_refused_with_a_fix(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Redness(INFO).score(images, ["a", "b"])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("a cat", "redness got one text, 'a cat', as prompts; expected a list of 2 texts, one per image"),
        (None, "got no prompts; expected a list of 2 texts"),
        (["a", 1], "got a int as prompt 1; expected"),
        ({"a": 1}, "got a dict as prompts; expected"),
        (["a", "b\ud83d"], "got an unpaired surrogate in prompt 1; expected"),
        (["a"], "got 1 prompts for 2 images; expected one per image: repeat"),
    ],
)
def test_invalid_prompts_are_refused(prompts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Redness(INFO).score(GREY, prompts)


def test_prompts_are_optional_for_rewards_that_do_not_use_them() -> None:
    assert Redness(replace(INFO, uses_prompt=False)).score(GREY).tolist() == [0.5, 0.5]


def test_images_of_several_sizes_keep_order_and_prompts() -> None:
    levels, sizes = (10, 20, 30, 40), ((8, 8), (8, 8), (9, 8), (8, 8))
    images = [Image.new("RGB", size, (level, 0, 0)) for level, size in zip(levels, sizes, strict=True)]
    prompts = ["a", "bb", "ccc", "dddd"]
    expected = torch.tensor(levels) / 255 + torch.tensor([1, 2, 3, 4])
    torch.testing.assert_close(RednessAndLength(INFO).score(images, prompts), expected)


def test_non_differentiable_reward_returns_no_gradient() -> None:
    images = GREY.clone().requires_grad_()
    assert Redness(INFO).score(images, ["a", "b"]).requires_grad
    assert not Redness(replace(INFO, differentiable=False)).score(images, ["a", "b"]).requires_grad


def test_score_of_wrong_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"returned scores of shape \(\) for 1 images; expected \(1,\)"):
        Squeezed(INFO).score(GREY[:1], ["a"])


def test_rounding_error_outside_the_range_is_accepted() -> None:
    assert Redness(INFO).score(torch.full((1, 3, 2, 2), 1.00005), ["a"]).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("profile", PROFILES)
def test_half_precision_images_score_as_their_float32_values(profile: str) -> None:
    reward = Redness(replace(INFO, profile=profile))
    images = torch.rand(2, 3, 80, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    scores = reward.score(images, ["a", "b"])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, reward.score(images.float(), ["a", "b"]), rtol=0, atol=0)


def test_reward_stays_in_evaluation_mode(tiny: Callable[[str], Reward]) -> None:
    reward = tiny("world-aesthetic")
    outer = torch.nn.Sequential(reward).train()
    assert outer.training
    assert not reward.training


def test_reward_without_score_method_is_abstract() -> None:
    with pytest.raises(TypeError, match="_score"):
        Reward(INFO)  # type: ignore[abstract]


def test_score_id_depends_on_what_changes_a_score_only() -> None:
    same = [INFO, replace(INFO, scale="described better", licence="MIT", role="judge")]
    other = [replace(INFO, profile="clip-64"), replace(INFO, options={"k": 1}), replace(INFO, entry="m:C")]
    assert len({score_id(record) for record in same}) == 1
    ids = [score_id(record) for record in [INFO, *other]] + [score_id(INFO, "bfloat16")]
    assert len(set(ids)) == 5
    assert all(len(i) == 12 and int(i, 16) >= 0 for i in ids)


def test_turned_photograph_scores_as_it_is_shown() -> None:
    shown = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    stored, exif, file = shown.transpose(Image.Transpose.ROTATE_90), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    stored.save(file, "PNG", exif=exif)
    reward = Redness(replace(INFO, profile="clip-224"))
    scores = reward.score([shown, Image.open(file), stored], ["a"] * 3)
    assert scores[0] == scores[1] != scores[2]


def test_transparent_pixels_count_less_where_the_official_code_converts_last() -> None:
    pixels = np.zeros((300, 300, 4), dtype=np.uint8)
    pixels[::2] = (255, 0, 0, 255)  # red rows between transparent black ones
    first, last = (
        Redness(replace(INFO, profile=name)).score([Image.fromarray(pixels)], ["a"])
        for name in ("clip-224-floor", "clip-224")
    )
    assert last > first + 0.5
