"""Scores of latents, their gradient, and rows that are not finite."""

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
from textcraftor.algorithms.latent_scores import LatentScorer, LatentScores, decode_latents
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.io.pairs import Pairs

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


def test_gradient_equals_autograd_through_decoder_and_rewards(
    vae: Any, mix: RewardMix, latents: Tensor
) -> None:
    scores = LatentScorer(vae, mix).score_latents_with_gradient(latents, TEXTS)
    leaf = latents.clone().requires_grad_()
    total = mix.score(decode_latents(vae, leaf), TEXTS).total
    (expected,) = torch.autograd.grad(total.sum(), leaf)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(scores.gradient, expected, rtol=1e-3, atol=2e-6)
    torch.testing.assert_close(scores.total, total)
    assert set(scores.gradient_norms) == set(scores.scores) == {"world-aesthetic", "world-clip"}
    assert not scores.skipped


def test_scores_without_gradient_are_the_same(vae: Any, mix: RewardMix, latents: Tensor) -> None:
    scorer = LatentScorer(vae, mix, decode_slice=2)
    without = scorer.score_latents(latents, TEXTS)
    torch.testing.assert_close(without.total, scorer.score_latents_with_gradient(latents, TEXTS).total)
    assert not without.gradient.any()
    assert not without.gradient_norms


def test_slices_change_nothing(vae: Any, mix: RewardMix, latents: Tensor) -> None:
    whole = LatentScorer(vae, mix).score_latents_with_gradient(latents, TEXTS)
    parts = LatentScorer(vae, mix, decode_slice=2).score_latents_with_gradient(latents, TEXTS)
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-3, atol=2e-6)
    torch.testing.assert_close(parts.total, whole.total)


def test_rewards_see_pooled_images(vae: Any, mix: RewardMix, latents: Tensor) -> None:
    scores = LatentScorer(vae, mix, pool=8).score_latents_with_gradient(latents, TEXTS)
    small = F.adaptive_avg_pool2d(decode_latents(vae, latents), 8)
    torch.testing.assert_close(scores.total, mix.score(small, TEXTS).total)


def test_only_rows_that_are_not_finite_are_skipped(vae: Any, mix: RewardMix, latents: Tensor) -> None:
    scorer = LatentScorer(vae, mix, decode_slice=2)
    whole = LatentScorer(vae, mix).score_latents_with_gradient(latents, TEXTS)
    broken = latents.clone()
    broken[1] = float("nan")
    scores = scorer.score_latents_with_gradient(broken, TEXTS)
    assert scores.skipped == (1,)
    assert scores.finite.tolist() == [True, False, True]
    assert scores.rewards().isnan().tolist() == [False, True, False]
    assert not scores.gradient[1].any()
    torch.testing.assert_close(scores.gradient[[0, 2]], whole.gradient[[0, 2]], rtol=1e-3, atol=2e-6)
    assert scorer.score_latents(broken, TEXTS).skipped == (1,)
    assert LatentScores.join([scores, scores]).skipped == (1, 4)
    assert whole.skipping([scores]).skipped == (1,)


def test_clipped_pixels_pass_no_gradient(mix: RewardMix) -> None:
    class Bright:
        """Decodes everything far above white."""

        dtype = torch.float32
        config = type("Config", (), {"scaling_factor": 1.0})

        def decode(self, z: Tensor) -> Any:
            return type("Decoded", (), {"sample": z.mean() * 0 + 9 + z[:, :3].repeat(1, 1, 2, 2)})

    latents = torch.rand(1, 4, 8, 8)
    assert (decode_latents(Bright(), latents) == 1).all()
    assert not LatentScorer(Bright(), mix).score_latents_with_gradient(latents, TEXTS[:1]).gradient.any()


def test_encoded_images_decode_to_themselves(tmp_path: Path) -> None:
    from torchvision.utils import save_image

    from textcraftor.diffusion.pipeline import MICRO

    vae = load_pipeline(MICRO, device="cpu", dtype="float32", sampler="ddim").vae
    images = torch.full((1, 3, 64, 64), 0.5)
    images[:, 0, 16:48, 16:48] = 0.9
    save_image(images, tmp_path / "0.png")
    pairs = Pairs(tmp_path, ["0.png"], ["a square"])
    with torch.no_grad():
        again = decode_latents(vae, pairs.latents([0], (64, 64), vae))
    assert float((again - images).square().mean()) < 0.01
