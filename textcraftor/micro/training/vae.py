"""The micro pipeline's VAE: a standard ``AutoencoderKL`` whose latent space is fixed beforehand.

An autoencoder of this size trained end to end learns grey blobs. So the latents are defined first, as the
leading principal components of 8 x 8 pixel patches; the KL decoder learns to draw from them and the KL
encoder to predict them. The result loads, encodes and decodes as any diffusers VAE.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.world.training import data
from rewards.world.training.fit import Losses, Plan, fit

PATCH, CHANNELS = 8, 8
LATENT_STD = 0.6
"""Standard deviation of the scaled latents. Below 1, so that fewer sampling steps are spent in pure noise."""

DECODER = Plan("vae-decoder", steps=1400, lr=1.5e-3, batch=16, seed=21, ema=0.995)
ENCODER = Plan("vae-encoder", steps=250, lr=2e-3, batch=32, seed=22, ema=0.99)


@dataclass(frozen=True)
class Patches:
    """Linear latents of images in [-1, 1].

    ``mean`` (192,), ``down`` (8, 192), and the ``factor`` of scaled latents.
    """

    mean: Tensor
    down: Tensor
    factor: float

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [0, 1] -> unscaled latents (B, 8, 8, 8)."""
        cut = F.pixel_unshuffle(images * 2 - 1, PATCH) - self.mean[:, None, None]
        return torch.einsum("lp,bphw->blhw", self.down, cut)


def fit_patches(seed: int = 20, count: int = 4000) -> Patches:
    """Principal components of patches, each divided by its standard deviation to the power 0.6.

    The power keeps some of their order of importance: large components stay larger.
    """
    rng = np.random.default_rng(seed)
    cut = F.pixel_unshuffle(data.pictures(rng, data.random_scenes(rng, count)) * 2 - 1, PATCH)
    rows = cut.permute(0, 2, 3, 1).reshape(-1, 3 * PATCH**2).double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    deviation, vectors = values[-CHANNELS:].flip(0).sqrt(), vectors[:, -CHANNELS:].flip(1)
    vectors = vectors * vectors.sum(0).sign()
    down = vectors.T * deviation[:, None] ** -0.6
    spread = (deviation**0.8).mean().sqrt()
    return Patches(mean.float(), down.float(), float(LATENT_STD / spread))


def patches(folder: Path) -> Patches:
    """The fitted patches, computed once and kept in ``folder``."""
    path = folder / "patches.safetensors"
    if not path.exists():
        found = fit_patches()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"mean": found.mean, "down": found.down.contiguous(), "factor": torch.tensor(found.factor)}, path
        )
    kept = load_file(path, device=str(torch.get_default_device()))
    return Patches(kept["mean"], kept["down"], float(kept["factor"]))


def build(factor: float) -> AutoencoderKL:
    """The autoencoder with random weights: 64 px to 8 x 8 x 8."""
    return AutoencoderKL(
        sample_size=64,
        latent_channels=CHANNELS,
        block_out_channels=(24, 40, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=factor,
    )


class _Decoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        picture: Tensor = self.decoder(self.post_quant_conv(latents))
        return picture


class _Encoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, images: Tensor) -> Tensor:
        moments: Tensor = self.quant_conv(self.encoder(images * 2 - 1))
        return moments


def train(folder: Path, decoder: Plan = DECODER, encoder: Plan = ENCODER) -> AutoencoderKL:
    """Train both halves, resuming from ``folder``."""
    latent = patches(folder)
    torch.manual_seed(decoder.seed)
    vae = build(latent.factor)
    draw, predict = _Decoder(vae), _Encoder(vae)

    def draw_loss(rng: np.random.Generator) -> Losses:
        images = data.pictures(rng, data.random_scenes(rng, decoder.batch))
        exact = latent.encode(images)
        # A diffusion model's latents are not exact: the decoder learns to draw well from slightly wrong ones.
        level = 0.25 * torch.rand(len(images), 1, 1, 1) * exact.std(dim=(0, 2, 3), keepdim=True)
        target = images * 2 - 1
        drawn = draw(exact + level * torch.randn_like(exact))
        pixel, edge = (drawn - target).abs().mean(), _slopes(drawn - target)
        return {"loss": pixel + edge, "l1": pixel, "mse": F.mse_loss(drawn, target)}

    def predict_loss(rng: np.random.Generator) -> Losses:
        images = data.pictures(rng, data.random_scenes(rng, encoder.batch))
        mean, log_variance = predict(images).chunk(2, dim=1)
        error = F.mse_loss(mean, latent.encode(images))
        return {"loss": error + 1e-3 * (log_variance + 8.0).square().mean(), "mse": error}

    fit(decoder, draw, draw_loss, folder)
    fit(encoder, predict, predict_loss, folder)
    return vae.eval()


def _slopes(difference: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels: keeps edges where plain L1 lets them blur."""
    across, down = difference.diff(dim=-1).abs().mean(), difference.diff(dim=-2).abs().mean()
    return across + down
