"""The VAE: its fixed latents, principal components of patches, and its training."""

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
def latent() -> vae._PatchLatents:
    return vae._PatchLatents.fit(count=800)


def renders(count: int) -> torch.Tensor:
    return data.render_batch(vae._scenes(np.random.default_rng(1), count))


def test_latents_are_uncorrelated_and_have_the_documented_deviation(latent: vae._PatchLatents) -> None:
    rows = (latent.encode(renders(800)) * latent.factor).permute(1, 0, 2, 3).flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(vae.CHANNELS)
    assert correlation.abs().max() < 0.15
    assert rows.square().mean().sqrt().item() == pytest.approx(vae.LATENT_STD, rel=0.05)


def test_latents_keep_most_of_an_image(latent: vae._PatchLatents) -> None:
    """A least-squares fit of pixels to latents leaves less than a tenth of the variance."""
    images = renders(300)
    pixels = F.pixel_unshuffle(images * 2 - 1, vae.PATCH).permute(0, 2, 3, 1).reshape(-1, 192)
    rows = latent.encode(images).permute(0, 2, 3, 1).reshape(-1, vae.CHANNELS)
    centred = pixels - pixels.mean(0)
    back = torch.linalg.lstsq(rows - rows.mean(0), centred).solution
    left = (centred - (rows - rows.mean(0)) @ back).square().mean() / centred.square().mean()
    assert left < 0.1


def test_patches_are_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vae._PatchLatents.fit(count=20)
    monkeypatch.setattr(vae._PatchLatents, "fit", lambda: first)
    stored = vae.patch_latents(tmp_path)
    monkeypatch.setattr(vae._PatchLatents, "fit", lambda: pytest.fail("fitted again"))
    again = vae.patch_latents(tmp_path)
    torch.testing.assert_close(again.down, first.down)
    assert again.factor == pytest.approx(stored.factor)


def test_a_few_steps_improve_decoder_and_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = vae._PatchLatents.fit(count=50)
    monkeypatch.setattr(vae, "patch_latents", lambda folder: small)
    images = renders(8)

    def losses(steps: int) -> tuple[float, float]:
        plans = (
            replace(plan, steps=steps, batch=4, warmup=2) for plan in (vae.DECODER, vae.SHARP, vae.ENCODER)
        )
        trained = vae.train_vae(tmp_path / str(steps), *plans)
        with torch.inference_mode():
            exact = small.encode(images)
            decoded = trained.decode(exact).sample
            encoded = trained.encode(images * 2 - 1).latent_dist.mean
        return F.mse_loss(decoded, images * 2 - 1).item(), F.mse_loss(encoded, exact).item()

    (decoder, encoder), (decoder_later, encoder_later) = losses(1), losses(12)
    assert decoder_later < 0.8 * decoder
    assert encoder_later < encoder
