"""The forward process of diffusion: noised latents, what the UNet predicts for them, and clean latents.

z = a x0 + s noise are latents (B, C, h, w) at timestep t, e is the UNet's output. The scheduler must be
diffusers' DDIMScheduler, whose latents satisfy a^2 + s^2 = 1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def denoising_target(scheduler: Any, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return what the UNet is trained to predict: noise, the velocity a noise - s x0, or x0."""
    kind = scheduler.config.prediction_type
    a, s = (scale.to(x0.device, x0.dtype) for scale in _signal_and_noise(scheduler, t))
    return noise if kind == "epsilon" else a * noise - s * x0 if kind == "v_prediction" else x0


def predict_x0(scheduler: Any, e: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """Return the clean latents that the output e predicts.

    With z = a x0 + s noise, that is (z - s e) / a if e predicts noise, and a z - s e if e predicts the
    velocity a noise - s x0 (Salimans and Ho 2022).
    """
    # its latents satisfy a^2 + s^2 = 1; configurations with other samplers are refused
    assert type(scheduler).__name__ == "DDIMScheduler"
    a, s = (scale.to(z.device, z.dtype) for scale in _signal_and_noise(scheduler, t))
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return (z - s * e) / a
    return a * z - s * e if kind == "v_prediction" else e


def add_noise(scheduler: Any, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return the latents of x0 at timestep t: a x0 + s noise."""
    a, s = (scale.to(x0.device, x0.dtype) for scale in _signal_and_noise(scheduler, t))
    return a * x0 + s * noise


def _signal_and_noise(scheduler: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return (a, s) at timestep t: the scales of clean latents and of noise in z."""
    alpha = scheduler.alphas_cumprod.to(t.device)[t]
    return alpha.sqrt(), (1 - alpha).sqrt()
