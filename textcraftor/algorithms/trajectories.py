"""Stochastic sampling as a chain of Gaussian decisions, with their densities.

DDIM at eta above 0 draws the next latents from N(mean, std^2), where the UNet decides the mean.

The log density of a decision is the mean over its elements instead of the sum, as in the official code of
DDPO (ddpo-pytorch, ddim_with_logprob.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from textcraftor.diffusion.sampling import Rollout
from textcraftor.sources import Sample


@dataclass(frozen=True)
class Trajectory:
    """The n sampling steps of B samples, and the decisions among them that are trained on."""

    samples: Sequence[Sample]
    rollout: Rollout
    latents: tuple[Tensor, ...]
    """n + 1 latents (B, C, h, w): before, between and after the steps."""
    log_probs: Mapping[int, Tensor]
    """Log densities (B,) under the policy that sampled, by step; only of decisions that are trained on."""

    def rows(self, rows: Sequence[int]) -> Trajectory:
        """Return the trajectory of some of the samples."""
        index = torch.tensor(rows, device=self.latents[0].device)
        return replace(
            self,
            samples=[self.samples[row] for row in rows],
            latents=tuple(z[index] for z in self.latents),
            log_probs={step: densities[index] for step, densities in self.log_probs.items()},
        )


def step_std(scheduler: Any, t: Tensor, eta: float) -> float:
    """Return the standard deviation of a DDIM step's noise.

    eta sqrt((1 - a') / (1 - a) (1 - a / a')), with a and a' the products of alphas at t and at the next
    timestep.

    Source: Song et al. 2021 (DDIM), equation 16.
    """
    following = int(t) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    a = float(scheduler.alphas_cumprod[int(t)])
    # the last step leads to t < 0, where the scheduler keeps its own final value
    a_next = float(scheduler.alphas_cumprod[following] if following >= 0 else scheduler.final_alpha_cumprod)
    return eta * math.sqrt(max(0.0, (1 - a_next) / (1 - a) * (1 - a / a_next)))


def step_mean(scheduler: Any, e: Tensor, t: Tensor, z: Tensor, eta: float) -> Tensor:
    """Return the mean (B, C, h, w) of the next latents, given the UNet's output e."""
    # with noise 0 the scheduler's stochastic step gives its mean
    mean: Tensor = scheduler.step(e, t, z, eta=eta, variance_noise=torch.zeros_like(z)).prev_sample
    return mean


def log_density(following: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return the log density (B,) of ``following`` (B, C, h, w) under N(mean, std^2), mean over elements."""
    parts = -((following - mean).square()) / (2 * std**2) - math.log(std) - math.log(2 * math.pi) / 2
    return parts.flatten(1).mean(dim=1)


def trained_decisions(stds: Sequence[float], min_noise: float) -> list[int]:
    """Return the steps whose decisions are trained on: their noise is not far below the largest one.

    The gradient of a log density grows with 1 / std. With 25 steps the last standard deviation is a
    twentieth of the first, and that one decision had 92 % of the sum of squares of the gradient, although it
    changes the image least. A step without noise is no decision.

    Args:
        stds: Standard deviation of each step's noise.
        min_noise: Smallest standard deviation, as a share of the largest.
    """
    least = min_noise * max(stds, default=0.0)
    return [step for step, std in enumerate(stds) if std > 0 and std >= least]
