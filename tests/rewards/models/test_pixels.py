"""Colourfulness and darkness by hand, with finite gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import rewards

NAMES = ("colourfulness", "darkness")

HALVES = Image.new("RGB", (4, 2), (250, 50, 30))
HALVES.paste((10, 210, 90), (2, 0, 4, 2))
"""Left half: rg = 200, yb = 120. Right half: rg = -200, yb = 20."""


def as_tensor(image: Image.Image) -> Tensor:
    """Return the image as (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def score(name: str, image: Image.Image | Tensor) -> float:
    return rewards.score(name, image if isinstance(image, Tensor) else [image]).item()


def gradient(name: str, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    (result,) = torch.autograd.grad(rewards.load(name).score(images).sum(), images)
    return result


def test_colourfulness_of_two_colours_by_hand() -> None:
    # rg has mean 0 and deviation 200, yb has mean 70 and deviation 50.
    expected = math.sqrt(200**2 + 50**2) + 0.3 * 70
    assert score("colourfulness", HALVES) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((128, 128, 128), 0.0),
        ((255, 0, 0), 0.3 * math.hypot(255, 127.5)),
        ((0, 0, 255), 0.3 * 255),
    ],
)
def test_colourfulness_of_one_colour_is_its_distance_from_grey(
    colour: tuple[int, int, int], expected: float
) -> None:
    assert score("colourfulness", Image.new("RGB", (6, 5), colour)) == pytest.approx(expected, abs=1e-3)


def test_colourfulness_of_noise_agrees_with_numpy() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    red, green, blue = levels.astype(np.float64).transpose(2, 0, 1)
    rg, yb = red - green, (red + green) / 2 - blue
    expected = math.sqrt(rg.var() + yb.var()) + 0.3 * math.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    assert score("colourfulness", Image.fromarray(levels)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ("white", 0.0),
        ("black", 100.0),
        ((255, 0, 0), 100 - 21.26),
        ((0, 255, 0), 100 - 71.52),
        ((0, 0, 255), 100 - 7.22),
        ((51, 51, 51), 80.0),  # the stored value, not linear light
    ],
)
def test_darkness_of_one_colour(colour: str | tuple[int, int, int], expected: float) -> None:
    assert score("darkness", Image.new("RGB", (6, 5), colour)) == pytest.approx(expected, abs=1e-4)


def test_darkness_is_the_mean_over_the_pixels() -> None:
    image = Image.new("RGB", (4, 2), "white")
    image.paste("black", (0, 0, 1, 2))
    assert score("darkness", image) == pytest.approx(25, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_pil_image_and_its_tensor_score_the_same(name: str) -> None:
    assert score(name, HALVES) == score(name, as_tensor(HALVES))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_every_channel_agrees_with_finite_differences(name: str) -> None:
    images = 0.1 + 0.8 * torch.rand(1, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    step = 1e-2
    moves = step * torch.eye(images.numel()).view(-1, *images.shape[1:])
    up, down = (rewards.score(name, images + sign * moves) for sign in (1, -1))
    slopes = ((up - down) / (2 * step)).view_as(images)
    torch.testing.assert_close(gradient(name, images), slopes, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("level", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_a_flat_grey_image_is_finite(name: str, level: float) -> None:
    images = torch.full((1, 3, 8, 8), level)
    assert gradient(name, images).isfinite().all()


def test_flat_image_does_not_spoil_the_gradient_of_its_batch() -> None:
    batch = torch.cat([torch.full((1, 3, 2, 4), 0.5), as_tensor(HALVES)])
    flat, colourful = gradient("colourfulness", batch)
    assert not flat.any()
    torch.testing.assert_close(colourful, gradient("colourfulness", as_tensor(HALVES))[0])


def test_flat_colour_becomes_more_colourful_along_its_gradient() -> None:
    images = torch.tensor([0.6, 0.5, 0.4])[None, :, None, None].expand(1, 3, 8, 8)
    direction = gradient("colourfulness", images)
    assert direction.isfinite().all()
    moved = images + 0.05 * direction / direction.abs().amax()
    assert score("colourfulness", moved) > score("colourfulness", images)


def test_large_images_keep_their_precision() -> None:
    small = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # Repeated pixels have the same statistics; a sum in float32 that is added up one by one would drift.
    for name in NAMES:
        assert score(name, small.repeat(1, 1, 32, 32)) == pytest.approx(score(name, small), rel=1e-5)
