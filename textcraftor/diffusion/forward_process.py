"""The forward process of diffusion: noised latents, what the UNet predicts for them, and clean latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ForwardProcess:
    """Latents z = a x0 + s noise (B, C, h, w) at timestep t, by the scales of a scheduler.

    Its latents must satisfy a^2 + s^2 = 1, as those of diffusers' DDIMScheduler do.
    """

    scheduler: Any

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the latents of x0 at timestep t."""
        a, s = self._scales(t, x0)
        return a * x0 + s * noise

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return what the UNet is trained to predict: noise, the velocity a noise - s x0, or x0."""
        kind = self.scheduler.config.prediction_type
        a, s = self._scales(t, x0)
        return noise if kind == "epsilon" else a * noise - s * x0 if kind == "v_prediction" else x0

    def predict_x0(self, e: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return the clean latents that the UNet's output e predicts from z.

        That is (z - s e) / a if e predicts noise, and a z - s e if e predicts the velocity (Salimans and Ho
        2022).
        """
        kind = self.scheduler.config.prediction_type
        a, s = self._scales(t, z)
        if kind == "epsilon":
            return (z - s * e) / a
        return a * z - s * e if kind == "v_prediction" else e

    def _scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (a, s) at timestep t: the scales of clean latents and of noise."""
        # configurations with other samplers are refused
        assert type(self.scheduler).__name__ == "DDIMScheduler"
        alpha = self.scheduler.alphas_cumprod.to(t.device)[t]
        return alpha.sqrt().to(like.device, like.dtype), (1 - alpha).sqrt().to(like.device, like.dtype)
