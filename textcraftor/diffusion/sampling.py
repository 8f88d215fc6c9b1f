"""Differentiable sampling: the steps of a diffusers scheduler.

Notation of Li et al. 2024 (TextCraftor): z are latents (B, C, h, w), t a timestep, c the text conditioning,
e the guided output of the UNet.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tcbench.errors import ConfigError
from textcraftor.diffusion.conditioning import Conditioning
from textcraftor.diffusion.forward_process import ForwardProcess
from textcraftor.diffusion.prompts import initial_latents

EXTRA_NOISE = 1_000_000
"""Noise index of a sample's first noise beside its initial noise."""


def autocast(device: str | torch.device, precision: str) -> torch.autocast:
    """Return a context in which forward passes run in ``precision`` ("float32" or "bfloat16")."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


class Denoiser:
    """The UNet with classifier-free guidance: e = w e(z, c) - (w - 1) e(z, null), both in one call.

    Counts its work for the cost of training.

    Args:
        unet: A diffusers UNet.
        guidance: Scale w of classifier-free guidance.
        time_ids: Size conditioning (1, 6) of SDXL; None for other models.
        scale: Embedding (1, D) of the guidance scale, for a UNet that takes it as an input (distilled ones,
            such as latent consistency models); None for other models.
    """

    def __init__(
        self, unet: Any, guidance: float, time_ids: Tensor | None = None, scale: Tensor | None = None
    ) -> None:
        self.unet, self.guidance, self.time_ids, self.scale = unet, guidance, time_ids, scale
        self.calls = 0
        """Rows that went through the UNet; a guided sample has two."""
        self.graphs = 0
        """Those of them whose graph was kept for a backward pass."""
        self.saved = 0
        """Rows that the prefix cache made unnecessary."""

    @classmethod
    def of_pipeline(cls, pipe: Any, guidance: float, size: tuple[int, int]) -> Denoiser:
        """Return the denoiser of a pipeline, with the further inputs that its UNet takes.

        Args:
            pipe: A diffusers pipeline.
            guidance: Scale w of classifier-free guidance.
            size: (height, width) of the images in pixels.
        """
        ids = scale = None
        if (width := pipe.unet.config.time_cond_proj_dim) is not None:
            embedded = pipe.get_guidance_scale_embedding(torch.tensor([guidance - 1.0]), embedding_dim=width)
            scale = embedded.to(pipe.device)
        if getattr(pipe, "text_encoder_2", None) is not None:
            sizes = [[*size, 0, 0, *size]]  # original size, crop, target size
            ids = torch.tensor(sizes, dtype=torch.float32, device=pipe.device)
        return cls(pipe.unet, guidance, ids, scale)

    def __call__(self, z: Tensor, t: Tensor, c: Conditioning, *, recomputed: bool = False) -> Tensor:
        """Return the guided output e (B, C, h, w) in the precision of z.

        Args:
            z: Latents (B, C, h, w), scaled as the scheduler wants them.
            t: Timestep.
            c: Conditioning of B rows, or of 2 B with guidance.
            recomputed: Whether gradient checkpointing runs this step a second time; its backward pass is
                then counted already.
        """
        copies = len(c.embeds) // len(z)
        self.calls += len(c.embeds)
        self.graphs += len(c.embeds) * (torch.is_grad_enabled() and not recomputed)
        added = None
        if c.pooled is not None:
            assert self.time_ids is not None  # SDXL needs pooled embeddings and sizes together
            added = {"text_embeds": c.pooled, "time_ids": self.time_ids.expand(len(c.embeds), -1)}
        inputs = torch.cat([z] * copies).to(self.unet.dtype)
        hidden = c.embeds.to(self.unet.dtype)
        scale = None if self.scale is None else self.scale.to(self.unet.dtype).expand(len(c.embeds), -1)
        output: Tensor = self.unet(
            inputs, t, timestep_cond=scale, encoder_hidden_states=hidden, added_cond_kwargs=added
        ).sample.to(z.dtype)
        if copies == 1:
            return output
        null, text = output.chunk(2)
        return null + self.guidance * (text - null)

    def take_counts(self) -> tuple[int, int, int]:
        """Return (calls, graphs, saved) since the last call, and start again at 0."""
        counts = self.calls, self.graphs, self.saved
        self.calls = self.graphs = self.saved = 0
        return counts

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Do not count work within the block: validation is not a cost of training."""
        counts = self.calls, self.graphs, self.saved
        try:
            yield
        finally:
            self.calls, self.graphs, self.saved = counts


@dataclass(frozen=True)
class Rollout:
    """Consecutive sampling steps of one scheduler."""

    denoiser: Denoiser
    """Guided UNet call."""
    scheduler: Any
    """A diffusers scheduler."""
    timesteps: Tensor
    """The timesteps t of these steps, in order."""
    checkpointed: bool = False
    """Gradient checkpointing: recompute a step's graph in the backward pass, so that memory grows only by
    the latents of each step.
    """
    bounded: bool = False
    """Whether a sample's gradient at the latents of every step is bounded by its length at the final ones.
    The product of the UNet's Jacobians over many steps makes single samples dominate a batch otherwise.
    """

    @classmethod
    def from_noise(
        cls,
        denoiser: Denoiser,
        pipe: Any,
        steps: int,
        seeds: Sequence[int],
        latent_shape: tuple[int, int, int],
        checkpointed: bool = False,
    ) -> tuple[Rollout, Tensor]:
        """Return all sampling steps of a pipeline, and the initial latents (B, C, h, w) of B seeds.

        Args:
            denoiser: Guided UNet call.
            pipe: The pipeline whose scheduler and device are used.
            steps: Number of sampling steps.
            seeds: B seeds of initial noise.
            latent_shape: (C, h, w) of one latent.
            checkpointed: Whether the steps use gradient checkpointing.
        """
        scheduler = with_timesteps(pipe.scheduler, steps, device=pipe.device)
        z = initial_latents(seeds, latent_shape).to(pipe.device) * scheduler.init_noise_sigma
        return cls(denoiser, scheduler, scheduler.timesteps, checkpointed), z

    @property
    def forward_process(self) -> ForwardProcess:
        """The forward process with the scheduler's scales."""
        return ForwardProcess(self.scheduler)

    def output(self, z: Tensor, t: Tensor, c: Conditioning) -> Tensor:
        """Return the guided output e (B, C, h, w) at timestep t, with its graph."""
        scaled = self.scheduler.scale_model_input(z, t)
        if not self.checkpointed or not torch.is_grad_enabled():
            return self.denoiser(scaled, t, c)
        runs = count()

        def denoise(scaled: Tensor, *parts: Tensor) -> Tensor:
            return self.denoiser(scaled, t, Conditioning(*parts), recomputed=next(runs) > 0)

        e: Tensor = checkpoint(denoise, scaled, *c.tensors, use_reentrant=False)
        return e

    def step(self, e: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return the latents after the step at t, by the scheduler's own formula."""
        following: Tensor = self.scheduler.step(e, t, z).prev_sample
        return following

    def run(self, z: Tensor, c: Conditioning) -> Tensor:
        """Return the latents after all steps."""
        bound = _bound_by_first()
        for t in self.timesteps:
            z = self.step(self.output(z, t, c), t, z)
            if self.bounded and z.requires_grad:
                z.register_hook(bound)  # type: ignore[no-untyped-call]
        return z

    def split(self, count: int) -> tuple[Rollout, Rollout]:
        """Return the first ``count`` steps and the rest; they share the scheduler, so run them in order.

        A negative count is that of the rest. Some samplers (PNDM) have more timesteps than steps.
        """
        before, after = self.timesteps[:count], self.timesteps[count:]
        return replace(self, timesteps=before), replace(self, timesteps=after)


def _bound_by_first() -> Callable[[Tensor], Tensor]:
    """Return a function that bounds gradients (B, C, h, w), row by row, by the lengths in its first call.

    As a hook on the latents of all steps it is first called at the final ones: backpropagation begins there.
    """
    limits: list[Tensor] = []

    def bound(gradient: Tensor) -> Tensor:
        lengths = gradient.flatten(1).norm(dim=1)
        if not limits:
            limits.append(lengths)
        factors = limits[0] / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
        bounded: Tensor = gradient * factors.clamp(max=1)[:, None, None, None]
        return bounded

    return bound


def with_timesteps(scheduler: Any, steps: int, first: int = 0, device: str | torch.device = "cpu") -> Any:
    """Return a copy of ``scheduler`` set to ``steps`` sampling steps, ready for step number ``first``.

    Raises:
        ConfigError: If the model has fewer timesteps than that.
    """
    timesteps = scheduler.config.num_train_timesteps
    if steps > timesteps:  # some schedulers repeat timesteps instead
        raise ConfigError(
            f"schedule.steps = {steps}; the model has {timesteps} timesteps: lower schedule.steps"
        )
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, device=device)
    # DDIM computes each step from t alone; the others count steps and must know where they start
    if first and type(scheduler).__name__ != "DDIMScheduler":
        scheduler.set_begin_index(first)
    return scheduler
