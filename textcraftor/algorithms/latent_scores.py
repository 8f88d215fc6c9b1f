"""Scores of latents: decode them, apply the reward mix, and take its gradient at the latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.combine.mix import RewardMix


@dataclass(frozen=True)
class LatentScores:
    """Rewards of B images that latents decode to, and the gradient of the reward mix at the latents."""

    total: Tensor
    """The reward mix (B,)."""
    scores: Mapping[str, Tensor]
    """Official scores (B,) by reward."""
    gradient_norms: Mapping[str, Tensor]
    """Length (B,) of each reward's share of the gradient at the image, by reward; empty without gradients."""
    gradient: Tensor
    """Gradient (B, C, h, w) of the mix's sum at the latents; 0 in skipped rows and without gradients."""
    skipped: tuple[int, ...]
    """Rows whose rewards or gradient are not finite."""

    @property
    def finite(self) -> Tensor:
        """Mask (B,) of the rows that are not skipped."""
        mask = torch.ones(len(self.total), dtype=torch.bool, device=self.total.device)
        mask[list(self.skipped)] = False
        return mask

    def rewards(self) -> Tensor:
        """Return the reward mix (B,) in float32, NaN in skipped rows."""
        total = self.total.float().clone()
        total[list(self.skipped)] = math.nan
        return total

    def skipping(self, others: Sequence[LatentScores]) -> LatentScores:
        """Return these scores with the skipped rows of other scores of the same samples added."""
        rows = {row for part in (self, *others) for row in part.skipped}
        return replace(self, skipped=tuple(sorted(rows)))

    @staticmethod
    def join(parts: Sequence[LatentScores]) -> LatentScores:
        """Concatenate the scores of several batches; row numbers of skipped rows are shifted accordingly."""
        skipped, start = [], 0
        for part in parts:
            skipped += [start + row for row in part.skipped]
            start += len(part.total)
        return LatentScores(
            total=torch.cat([part.total for part in parts]),
            scores=_cat([part.scores for part in parts]),
            gradient_norms=_cat([part.gradient_norms for part in parts]),
            gradient=torch.cat([part.gradient for part in parts]),
            skipped=tuple(skipped),
        )


def decode_latents(vae: Any, latents: Tensor, slice_size: int = 0) -> Tensor:
    """Decode clean latents (B, C, h, w) to images (B, 3, H, W) in [0, 1].

    Gradients pass where pixels are not clipped.

    Args:
        vae: A diffusers VAE.
        latents: Clean latents.
        slice_size: Images decoded at a time; 0: all.
    """
    if slice_size:
        return torch.cat([decode_latents(vae, part) for part in torch.split(latents, slice_size)])
    scaled = latents / vae.config.scaling_factor
    pixels: Tensor = vae.decode(scaled.to(vae.dtype)).sample.float()
    return (pixels / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class LatentScorer:
    """Decodes latents and scores the images with a reward mix."""

    vae: Any
    mix: RewardMix
    decode_slice: int = 0
    """Images decoded and scored at a time; 0: all."""
    pool: int = 0
    """Average-pool images to this many pixels a side before rewards see them, as the official code does for
    every reward; 0: rewards see full images.
    """
    balance: bool = False
    """Whether each reward's gradient at an image is scaled to the length of its weight."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Factors of the rewards' gradients, 1 if absent; they may change between calls."""

    @staticmethod
    def pooled(images: Tensor, size: int) -> Tensor:
        """Average-pool images (B, 3, H, W) to ``size`` pixels a side; 0: return them unchanged."""
        return F.adaptive_avg_pool2d(images, size) if size else images

    @torch.no_grad()
    def score_latents(self, latents: Tensor, prompts: Sequence[str]) -> LatentScores:
        """Score latents without a gradient. The rewards need not be differentiable.

        Args:
            latents: Clean latents (B, C, h, w).
            prompts: B prompts.
        """
        parts = [self._score(*part) for part in self._slices(latents, prompts)]
        return LatentScores.join(parts)

    def score_latents_with_gradient(self, latents: Tensor, prompts: Sequence[str]) -> LatentScores:
        """Score latents and compute the gradient of the mix's sum at them.

        Args:
            latents: Clean latents (B, C, h, w).
            prompts: B prompts.
        """
        parts = [self._score_with_gradient(*part) for part in self._slices(latents, prompts)]
        return LatentScores.join(parts)

    def _slices(self, latents: Tensor, prompts: Sequence[str]) -> list[tuple[Tensor, Sequence[str]]]:
        size = self.decode_slice or len(latents)
        starts = range(0, len(latents), size)
        return [(latents[start : start + size], prompts[start : start + size]) for start in starts]

    def _score(self, latents: Tensor, prompts: Sequence[str]) -> LatentScores:
        images = decode_latents(self.vae, latents)
        shown = self.pooled(images, self.pool)
        # Rewards have a precision of their own. Broken pixels become grey, so that one broken image does not
        # spread through rewards that normalise over a batch; its row is skipped below.
        with torch.autocast(images.device.type, enabled=False):
            mixed = self.mix.score(shown.nan_to_num(0.5), prompts)
        broken = ~(mixed.total.isfinite() & images.flatten(1).isfinite().all(dim=1))
        return LatentScores(mixed.total, mixed.scores, {}, torch.zeros_like(latents), _row_numbers(broken))

    def _score_with_gradient(self, latents: Tensor, prompts: Sequence[str]) -> LatentScores:
        leaf = latents.detach().requires_grad_()
        with torch.enable_grad():
            images = decode_latents(self.vae, leaf)
            shown = self.pooled(images, self.pool)
        broken = ~shown.detach().flatten(1).isfinite().all(dim=1)
        # In two stages: first the gradient of the rewards at the images, which frees the rewards' graphs one
        # after another, then through the VAE. So memory holds one reward's graph at a time.
        with torch.autocast(images.device.type, enabled=False):
            mixed = self.mix.gradient(
                shown.detach().nan_to_num(0.5), prompts, balance=self.balance, factors=self.factors
            )
        at_images = mixed.gradient
        broken |= ~mixed.total.isfinite() | ~at_images.flatten(1).isfinite().all(dim=1)
        # A row that is not finite is skipped: its gradient is 0, and other rows keep theirs
        (gradient,) = torch.autograd.grad(
            shown, leaf, torch.where(_per_row(broken, at_images), 0.0, at_images)
        )
        broken |= ~gradient.flatten(1).isfinite().all(dim=1)
        gradient = torch.where(_per_row(broken, gradient), 0.0, gradient)
        return LatentScores(mixed.total, mixed.scores, mixed.norms, gradient, _row_numbers(broken))


def _row_numbers(broken: Tensor) -> tuple[int, ...]:
    return tuple(broken.nonzero().flatten().tolist())


def _per_row(broken: Tensor, like: Tensor) -> Tensor:
    """Reshape a mask (B,) so that it broadcasts over the rows of ``like``."""
    return broken[(...,) + (None,) * (like.ndim - 1)]


def _cat(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
