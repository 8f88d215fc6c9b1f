"""Where a sample's tuned steps start: latents from noise and the frozen prefix, or from a real image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from textcraftor.diffusion.conditioning import Conditioning
from textcraftor.diffusion.prefix_cache import PrefixCache
from textcraftor.diffusion.sampling import Denoiser, Rollout, with_timesteps
from textcraftor.diffusion.schedule import Schedule
from textcraftor.io.pairs import Pairs
from textcraftor.sources import Sample


class RolloutStart:
    """Generates the latents before the tuned steps.

    From noise, the first T - K steps are sampled with the original encoder. They carry no gradient and do not
    depend on the tuned encoder, so a cache can hold their result. With image-text pairs, training starts at
    the clean latents of each sample's image instead, and the estimator noises them itself.

    Args:
        denoiser: The UNet with guidance.
        pipe: The frozen pipeline.
        latent_shape: (channels, height, width) of one latent.
        schedule: Sampling steps T and tuned steps K.
        checkpointed: Whether the tuned steps use gradient checkpointing.
        bounded: Whether a sample's gradient at every step is bounded by its length at the final latents.
        cache: Cache of the latents before the tuned steps, for memoryless samplers only; None: no cache.
        pairs: Image-text pairs; None: start from noise.

    Raises:
        ConfigError: If the sampler cannot make so many steps.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        pipe: Any,
        latent_shape: tuple[int, int, int],
        schedule: Schedule,
        checkpointed: bool = False,
        bounded: bool = False,
        cache: PrefixCache | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        self.denoiser, self.pipe, self.latent_shape = denoiser, pipe, latent_shape
        self.steps, self.tuned_steps = schedule.steps, schedule.tuned_step_count
        with_timesteps(pipe.scheduler, schedule.steps)  # refuses a number of steps that it cannot make
        self.checkpointed, self.bounded, self.cache, self.pairs = checkpointed, bounded, cache, pairs

    def __call__(self, samples: Sequence[Sample], original: Conditioning) -> tuple[Rollout, Tensor]:
        """Return the tuned steps and the latents (B, C, h, w) before them.

        Args:
            samples: B samples.
            original: Their conditioning by the original encoder.
        """
        if self.pairs is not None:
            return self._encode_pairs(self.pairs, samples)
        if self.cache is None:
            return self._sample_prefix(samples, original)
        calls, first = self.denoiser.calls, self.steps - self.tuned_steps
        latents = self.cache.latents(samples, lambda: self._sample_prefix(samples, original)[1])
        if self.denoiser.calls == calls:  # all latents were in the cache
            self.denoiser.saved += first * len(original.embeds)
        scheduler = with_timesteps(self.pipe.scheduler, self.steps, first, self.pipe.device)
        rollout = Rollout(
            self.denoiser, scheduler, scheduler.timesteps[first:], self.checkpointed, self.bounded
        )
        return rollout, latents.to(self.pipe.device)

    def _sample_prefix(self, samples: Sequence[Sample], original: Conditioning) -> tuple[Rollout, Tensor]:
        seeds = [sample.noise_seed for sample in samples]
        whole, z = Rollout.from_noise(
            self.denoiser, self.pipe, self.steps, seeds, self.latent_shape, self.checkpointed
        )
        # One scheduler runs both parts: multistep samplers carry outputs of the prefix into the tuned steps
        prefix, tuned = replace(whole, bounded=self.bounded).split(-self.tuned_steps)
        with torch.no_grad():
            return tuned, prefix.run(z, original)

    def _encode_pairs(self, pairs: Pairs, samples: Sequence[Sample]) -> tuple[Rollout, Tensor]:
        _, height, width = self.latent_shape
        size = (height * self.pipe.vae_scale_factor, width * self.pipe.vae_scale_factor)
        latents = pairs.latents([sample.prompt for sample in samples], size, self.pipe.vae)
        return Rollout(self.denoiser, self.pipe.scheduler, torch.empty(0), self.checkpointed), latents
