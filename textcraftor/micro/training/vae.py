"""The micro pipeline's VAE: a standard ``AutoencoderKL`` with a latent space that is fixed before training.

Trained end to end, an autoencoder of this size reconstructs grey blobs. So the latents are defined first, as
the leading principal components of 8 x 8 pixel patches. The decoder learns to reconstruct images from them,
and the encoder to predict them. The result loads, encodes and decodes like any diffusers VAE.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.world.scenes import Scene, Style
from rewards.world.training import data
from rewards.world.training.fit import Losses, TrainingPlan, fit_model

PATCH, CHANNELS = 8, 16
LATENT_STD = 0.6
"""Standard deviation of scaled latents: below 1, so that fewer sampling steps are spent in pure noise."""

DECODER = TrainingPlan("vae-decoder", steps=1400, lr=1.5e-3, batch=16, seed=21, ema=0.995)
SHARP = TrainingPlan("vae-decoder-sharp", steps=1800, lr=1.5e-3, batch=16, seed=23, ema=0.995)
ENCODER = TrainingPlan("vae-encoder", steps=900, lr=2e-3, batch=32, seed=22, ema=0.99)


@dataclass(frozen=True)
class _PatchLatents:
    """Linear map from 8 x 8 pixel patches to latents."""

    mean: Tensor
    """Mean patch in [-1, 1], (192,)."""
    down: Tensor
    """Projection to latents, (16, 192)."""
    factor: float
    """Scaling factor of latents, as ``AutoencoderKL`` has it."""

    @classmethod
    def fit(cls, seed: int = 20, count: int = 4000) -> _PatchLatents:
        """Fit principal components of patches of random scenes.

        Args:
            seed: Seed of the scenes.
            count: Number of scenes.
        """
        rng = np.random.default_rng(seed)
        cut = F.pixel_unshuffle(data.render_batch(_scenes(rng, count)) * 2 - 1, PATCH)
        # In float64: the covariance sums 256,000 patches.
        rows = cut.permute(0, 2, 3, 1).reshape(-1, 3 * PATCH**2).double()
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        deviation, vectors = values[-CHANNELS:].flip(0).sqrt(), vectors[:, -CHANNELS:].flip(1)
        # An eigenvector's sign is arbitrary; fixing it makes the fit reproducible.
        vectors = vectors * vectors.sum(0).sign()
        # Dividing by the deviation would make all components equally large. The power 0.6 leaves large ones
        # larger, so that the UNet's loss weighs them more.
        down = vectors.T * deviation[:, None] ** -0.6
        # Component i now has variance deviation_i^2 x deviation_i^-1.2.
        spread = (deviation**0.8).mean().sqrt()
        return cls(mean.float(), down.float(), float(LATENT_STD / spread))

    def encode(self, images: Tensor) -> Tensor:
        """Return unscaled latents (B, 16, 8, 8) of images (B, 3, 64, 64) in [0, 1]."""
        cut = F.pixel_unshuffle(images * 2 - 1, PATCH) - self.mean[:, None, None]
        return torch.einsum("lp,bphw->blhw", self.down, cut)


def _scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    """Random scenes, half of them in even styles, so that every look is kept well."""
    half = count // 2
    return data.random_scenes(rng, count - half) + data.random_scenes(rng, half, looks=Style.even)


def patch_latents(folder: Path) -> _PatchLatents:
    """Return the fitted latents; they are fitted once and kept in ``folder/patches.safetensors``."""
    path = folder / "patches.safetensors"
    if not path.exists():
        fitted = _PatchLatents.fit()
        folder.mkdir(parents=True, exist_ok=True)
        factor = torch.tensor(fitted.factor)
        save_file({"mean": fitted.mean, "down": fitted.down.contiguous(), "factor": factor}, path)
    tensors = load_file(path, device=str(torch.get_default_device()))
    return _PatchLatents(tensors["mean"], tensors["down"], float(tensors["factor"]))


def _build_vae(factor: float) -> AutoencoderKL:
    """Return the autoencoder with random weights, 64 x 64 pixels to latents of 16 channels and 8 x 8.

    Args:
        factor: Scaling factor of latents.
    """
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
    """Decoder and the convolution before it: unscaled latents to images in [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.decoder(self.post_quant_conv(latents))
        return images


class _Encoder(nn.Module):
    """Encoder and the convolution after it: images in [0, 1] to mean and log variance of latents."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, images: Tensor) -> Tensor:
        moments: Tensor = self.quant_conv(self.encoder(images * 2 - 1))
        return moments


def train_vae(
    folder: Path,
    decoder: TrainingPlan = DECODER,
    sharp: TrainingPlan = SHARP,
    encoder: TrainingPlan = ENCODER,
) -> AutoencoderKL:
    """Train decoder and encoder, and write ``folder/vae``.

    Args:
        folder: Folder of the build.
        decoder: Plan for the decoder on noisy latents.
        sharp: Plan for the decoder on nearly exact latents, after that.
        encoder: Plan for the encoder.
    """
    latent = patch_latents(folder)
    torch.manual_seed(decoder.seed)
    vae = _build_vae(latent.factor)
    decode, encode = _Decoder(vae), _Encoder(vae)

    def decoder_loss(rng: np.random.Generator, noise: float, batch: int) -> Losses:
        images = data.render_batch(_scenes(rng, batch))
        exact = latent.encode(images)
        # The latents of a diffusion model are not exact, so the decoder is trained on noisy ones too.
        level = noise * torch.rand(len(images), 1, 1, 1) * exact.std(dim=(0, 2, 3), keepdim=True)
        target = images * 2 - 1
        decoded = decode(exact + level * torch.randn_like(exact))
        pixel, edge = (decoded - target).abs().mean(), _slope_error(decoded - target)
        return {"loss": pixel + edge, "l1": pixel, "mse": F.mse_loss(decoded, target)}

    def encoder_loss(rng: np.random.Generator) -> Losses:
        images = data.render_batch(_scenes(rng, encoder.batch))
        mean, log_variance = encode(images).chunk(2, dim=1)
        error = F.mse_loss(mean, latent.encode(images))
        # No KL term is needed, because the latents are given. The log variance is pulled to -8, so that
        # sampling from the posterior gives nearly the mean.
        return {"loss": error + 1e-3 * (log_variance + 8.0).square().mean(), "mse": error}

    fit_model(decoder, decode, lambda rng: decoder_loss(rng, 0.25, decoder.batch), folder)
    # Noise blurs what the decoder learns. With less of it edges and corners become sharp.
    fit_model(sharp, decode, lambda rng: decoder_loss(rng, 0.04, sharp.batch), folder)
    fit_model(encoder, encode, encoder_loss, folder)
    copy.deepcopy(vae.eval()).half().save_pretrained(folder / "vae")
    return vae


def _slope_error(difference: Tensor) -> Tensor:
    """Mean absolute error of the differences of neighbouring pixels; with plain L1 alone edges would blur."""
    across, down = difference.diff(dim=-1).abs().mean(), difference.diff(dim=-2).abs().mean()
    return across + down
