"""The gradient of a mix of rewards at latents, and what is left out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm
from textcraftor.algorithms.goal import decode, encode_images, grade
from textcraftor.diffusion.pipeline import load_pipeline
from textcraftor.diffusion.prompts import initial_latents

TEXTS = ["a cat", "a dog", "a hen"]


@pytest.fixture(scope="module")
def vae(tiny_pipeline: Path) -> Any:
    return load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler="ddim").vae.requires_grad_(
        False
    )


@pytest.fixture(scope="module")
def mix() -> RewardMix:
    return RewardMix(
        Panel(["world-aesthetic", "world-clip"]),
        {"world-aesthetic": MixTerm(0.5), "world-clip": MixTerm(0.1)},
    )


@pytest.fixture
def latents() -> Tensor:
    return initial_latents([1, 2, 3], (4, 8, 8))


def test_it_is_the_gradient_of_the_decoded_images_rewards(vae: Any, mix: RewardMix, latents: Tensor) -> None:
    found = grade(latents, TEXTS, vae=vae, mix=mix)
    leaf = latents.clone().requires_grad_()
    images = decode(vae, leaf)
    total = mix.score(images, TEXTS).total
    (expected,) = torch.autograd.grad(total.sum(), leaf)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found.gradient, expected, rtol=1e-3, atol=2e-6)
    torch.testing.assert_close(found.total, total)
    torch.testing.assert_close(found.images, images.detach())
    assert set(found.norms) == set(found.scores) == {"world-aesthetic", "world-clip"}
    assert not found.skipped


def test_slices_change_nothing(vae: Any, mix: RewardMix, latents: Tensor) -> None:
    whole = grade(latents, TEXTS, vae=vae, mix=mix)
    parts = grade(latents, TEXTS, vae=vae, mix=mix, slices=2)
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-3, atol=2e-6)
    torch.testing.assert_close(parts.total, whole.total)


def test_pooled_images_are_what_rewards_see(vae: Any, mix: RewardMix, latents: Tensor) -> None:
    found = grade(latents, TEXTS, vae=vae, mix=mix, pool=8)
    small = F.adaptive_avg_pool2d(decode(vae, latents), 8)
    torch.testing.assert_close(found.total, mix.score(small, TEXTS).total)
    assert found.images.shape[-1] == 16


def test_a_row_that_is_not_finite_is_left_out_alone(vae: Any, mix: RewardMix, latents: Tensor) -> None:
    whole = grade(latents, TEXTS, vae=vae, mix=mix)
    broken = latents.clone()
    broken[1] = float("nan")
    found = grade(broken, TEXTS, vae=vae, mix=mix, slices=2)
    assert found.skipped == (1,)
    assert not found.gradient[1].any()
    torch.testing.assert_close(found.gradient[[0, 2]], whole.gradient[[0, 2]], rtol=1e-3, atol=2e-6)


def test_clipped_pixels_pass_no_gradient(mix: RewardMix) -> None:
    class Bright:
        """Decodes everything far above white."""

        dtype = torch.float32
        config = type("Config", (), {"scaling_factor": 1.0})

        def decode(self, z: Tensor) -> Any:
            return type("Decoded", (), {"sample": z.mean() * 0 + 9 + z[:, :3].repeat(1, 1, 2, 2)})

    latents = torch.rand(1, 4, 8, 8)
    found = grade(latents, TEXTS[:1], vae=Bright(), mix=mix)
    assert (found.images == 1).all()
    assert not found.gradient.any()


def test_images_become_the_latents_that_decode_to_them() -> None:
    from textcraftor.diffusion.pipeline import MICRO

    vae = load_pipeline(MICRO, device="cpu", dtype="float32", sampler="ddim").vae
    images = torch.full((1, 3, 64, 64), 0.5)
    images[:, 0, 16:48, 16:48] = 0.9
    with torch.no_grad():
        again = decode(vae, encode_images(vae, images))
    assert float((again - images).square().mean()) < 0.01
