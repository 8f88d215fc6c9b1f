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


@dataclass(frozen=True)
class StochasticSteps:
    """DDIM's steps with noise: the next latents are drawn from N(mean, std^2)."""

    scheduler: Any
    """A diffusers DDIMScheduler."""
    eta: float
    """Noise of each step, above 0; 1 is as much as in DDPM."""

    def std(self, t: Tensor) -> float:
        """Return the standard deviation of the noise of the step at t.

        eta sqrt((1 - a') / (1 - a) (1 - a / a')), with a and a' the products of alphas at t and at the next
        timestep.

        Source: Song et al. 2021 (DDIM), equation 16.
        """
        config, alphas = self.scheduler.config, self.scheduler.alphas_cumprod
        following = int(t) - config.num_train_timesteps // self.scheduler.num_inference_steps
        a = float(alphas[int(t)])
        # the last step leads to t < 0, where the scheduler keeps its own final value
        a_next = float(alphas[following] if following >= 0 else self.scheduler.final_alpha_cumprod)
        return self.eta * math.sqrt(max(0.0, (1 - a_next) / (1 - a) * (1 - a / a_next)))

    def mean(self, e: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return the mean (B, C, h, w) of the latents after the step at t, given the UNet's output e."""
        # with noise 0 the scheduler's stochastic step gives its mean
        noise = torch.zeros_like(z)
        mean: Tensor = self.scheduler.step(e, t, z, eta=self.eta, variance_noise=noise).prev_sample
        return mean

    @staticmethod
    def log_density(following: Tensor, mean: Tensor, std: float) -> Tensor:
        """Return the log density (B,) of ``following`` (B, C, h, w) under N(mean, std^2) per element."""
        parts = -((following - mean).square()) / (2 * std**2) - math.log(std) - math.log(2 * math.pi) / 2
        return parts.flatten(1).mean(dim=1)

    @staticmethod
    def trainable_steps(stds: Sequence[float], min_noise: float) -> list[int]:
        """Return the steps whose decisions are trained on: their noise is not far below the largest one.

        The gradient of a log density grows with 1 / std. With 25 steps the last standard deviation is a
        twentieth of the first, and that one decision had 92 % of the sum of squares of the gradient, although
        it changes the image least. A step without noise is no decision.

        Args:
            stds: Standard deviation of each step's noise.
            min_noise: Smallest standard deviation, as a share of the largest.
        """
        least = min_noise * max(stds, default=0.0)
        return [step for step, std in enumerate(stds) if std > 0 and std >= least]
