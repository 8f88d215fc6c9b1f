"""The latent space that the VAE is taught: principal components of patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rewards.world.training import data
from textcraftor.micro.training import vae


@pytest.fixture(scope="module")
def latent() -> vae.Patches:
    return vae.fit_patches(count=200)


def renders(count: int) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return data.pictures(rng, data.random_scenes(rng, count))


def test_latents_are_uncorrelated_and_of_the_stated_spread(latent: vae.Patches) -> None:
    rows = (latent.encode(renders(300)) * latent.factor).permute(1, 0, 2, 3).flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(vae.CHANNELS)
    assert correlation.abs().max() < 0.15
    assert rows.square().mean().sqrt().item() == pytest.approx(vae.LATENT_STD, rel=0.05)


def test_latents_hold_most_of_a_picture(latent: vae.Patches) -> None:
    """Least squares from latents back to pixels leaves less than a tenth of the variance."""
    images = renders(300)
    pixels = F.pixel_unshuffle(images * 2 - 1, vae.PATCH).permute(0, 2, 3, 1).reshape(-1, 192)
    rows = latent.encode(images).permute(0, 2, 3, 1).reshape(-1, vae.CHANNELS)
    centred = pixels - pixels.mean(0)
    back = torch.linalg.lstsq(rows - rows.mean(0), centred).solution
    left = (centred - (rows - rows.mean(0)) @ back).square().mean() / centred.square().mean()
    assert left < 0.1


def test_patches_are_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vae.fit_patches(count=20)
    monkeypatch.setattr(vae, "fit_patches", lambda: first)
    kept = vae.patches(tmp_path)
    monkeypatch.setattr(vae, "fit_patches", lambda: pytest.fail("fitted again"))
    again = vae.patches(tmp_path)
    torch.testing.assert_close(again.down, first.down)
    assert again.factor == pytest.approx(kept.factor)


def test_a_few_steps_already_draw_and_encode_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = vae.fit_patches(count=50)
    monkeypatch.setattr(vae, "patches", lambda folder: small)
    images = renders(8)

    def losses(steps: int) -> tuple[float, float]:
        plans = (replace(plan, steps=steps, batch=4, warmup=2) for plan in (vae.DECODER, vae.ENCODER))
        trained = vae.train(tmp_path / str(steps), *plans)
        with torch.inference_mode():
            exact = small.encode(images)
            drawn = trained.decode(exact).sample
            found = trained.encode(images * 2 - 1).latent_dist.mean
        return F.mse_loss(drawn, images * 2 - 1).item(), F.mse_loss(found, exact).item()

    (drawn, found), (drawn_later, found_later) = losses(1), losses(12)
    assert drawn_later < 0.8 * drawn
    assert found_later < found
