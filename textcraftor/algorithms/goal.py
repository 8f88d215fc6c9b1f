"""What is maximised: a mix of rewards of the images that clean latents decode to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.combine.mix import RewardMix


class NotFinite(ValueError):
    """Rewards or gradients that are not numbers, more often than is allowed."""


@dataclass(frozen=True)
class Graded:
    """Images (B, 3, H, W) in [0, 1] of latents, what the mix says of them, and its gradient at the latents.

    ``scores`` and ``norms`` are by reward, (B,): the official score, and the length of its share of the
    gradient at each image. ``skipped`` are the rows that were left out because something was not finite.
    """

    images: Tensor
    total: Tensor
    scores: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]
    gradient: Tensor
    skipped: tuple[int, ...]


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] of clean latents, with gradients where pixels are not clipped."""
    scaled = latents / vae.config.scaling_factor
    pixels: Tensor = vae.decode(scaled.to(vae.dtype)).sample.float()
    return (pixels / 2 + 0.5).clamp(0, 1)


def encode_images(vae: Any, images: Tensor) -> Tensor:
    """Clean latents of images (B, 3, H, W) in [0, 1]: the mean of the encoder's distribution, scaled."""
    found: Tensor = vae.encode((images * 2 - 1).to(vae.dtype)).latent_dist.mode()
    return found.float() * float(vae.config.scaling_factor)


def grade(
    latents: Tensor, prompts: Sequence[str], *, vae: Any, mix: RewardMix, slices: int = 0, pool: int = 0
) -> Graded:
    """The mix of what ``latents`` (B, C, h, w) decode to, with its gradient there.

    ``slices`` images are decoded and scored at a time (0: all). With ``pool`` the images are average-pooled
    to that many pixels a side first, as the official code does for every reward (0: rewards see them as they
    are). A row whose rewards or gradient are not finite gets none.
    """
    size = slices or len(latents)
    parts = [
        _grade(latents[start : start + size], prompts[start : start + size], vae, mix, pool)
        for start in range(0, len(latents), size)
    ]
    skipped = [
        start + row for start, part in zip(range(0, len(latents), size), parts, strict=True)
        for row in part.skipped
    ]  # fmt: skip
    names = parts[0].scores
    return Graded(
        images=torch.cat([part.images for part in parts]),
        total=torch.cat([part.total for part in parts]),
        scores={name: torch.cat([part.scores[name] for part in parts]) for name in names},
        norms={name: torch.cat([part.norms[name] for part in parts]) for name in names},
        gradient=torch.cat([part.gradient for part in parts]),
        skipped=tuple(skipped),
    )


@torch.no_grad()
def look(
    latents: Tensor, prompts: Sequence[str], *, vae: Any, mix: RewardMix, slices: int = 0, pool: int = 0
) -> Graded:
    """`grade` for what learns without the rewards' gradients, which are zero here, and need not exist."""
    size = slices or len(latents)
    images, mixed = [], []
    for start in range(0, len(latents), size):
        decoded = decode(vae, latents[start : start + size])
        seen = F.adaptive_avg_pool2d(decoded, pool) if pool else decoded
        with torch.autocast(decoded.device.type, enabled=False):
            mixed.append(mix.score(seen.nan_to_num(0.5), prompts[start : start + size]))
        images.append(decoded)
    pictures, total = torch.cat(images), torch.cat([part.total for part in mixed])
    broken = ~(total.isfinite() & pictures.flatten(1).isfinite().all(dim=1))
    return Graded(
        images=pictures,
        total=total,
        scores={name: torch.cat([part.scores[name] for part in mixed]) for name in mixed[0].scores},
        norms={},
        gradient=torch.zeros_like(latents),
        skipped=tuple(broken.nonzero().flatten().tolist()),
    )


def _grade(latents: Tensor, prompts: Sequence[str], vae: Any, mix: RewardMix, pool: int) -> Graded:
    leaf = latents.detach().requires_grad_()
    with torch.enable_grad():
        images = decode(vae, leaf)
        seen = F.adaptive_avg_pool2d(images, pool) if pool else images
    broken = ~seen.detach().flatten(1).isfinite().all(dim=1)
    with torch.autocast(images.device.type, enabled=False):
        graded = mix.gradient(seen.detach().nan_to_num(0.5), prompts)
    pull = graded.gradient
    broken |= ~graded.total.isfinite() | ~pull.flatten(1).isfinite().all(dim=1)
    (gradient,) = torch.autograd.grad(seen, leaf, torch.where(_rows(broken, pull), 0.0, pull))
    broken |= ~gradient.flatten(1).isfinite().all(dim=1)
    return Graded(
        images=images.detach(),
        total=graded.total,
        scores=graded.scores,
        norms=graded.norms,
        gradient=torch.where(_rows(broken, gradient), 0.0, gradient),
        skipped=tuple(broken.nonzero().flatten().tolist()),
    )


def _rows(broken: Tensor, like: Tensor) -> Tensor:
    return broken[(...,) + (None,) * (like.ndim - 1)]
