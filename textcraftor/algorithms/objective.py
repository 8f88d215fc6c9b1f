"""The loss of some samples: their rollout, the estimator's gradient, and what keeps the encoder near home.

One module around everything that is trained, called once an update or micro-batch: so whatever wraps it
(DistributedDataParallel, autocast) sees one forward and one backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from rewards.combine.mix import RewardMix
from tcbench.errors import ConfigError
from textcraftor.algorithms.goal import Graded, encode_images, grade, look
from textcraftor.config import TrainConfig
from textcraftor.diffusion.conditioning import Conditioning
from textcraftor.diffusion.prefix_cache import PrefixCache
from textcraftor.diffusion.prompts import initial_latents, noise_seed
from textcraftor.diffusion.sampling import ESTIMATORS, MEMORYLESS, Denoiser, Rollout, fresh
from textcraftor.io.pairs import Pairs
from textcraftor.sources import Sample
from textcraftor.tuned import Trainee

LATER_NOISE = 1_000_000
"""Number of the first noise of a sample beside the one that its rollout begins with."""


class UpdateDraw:
    """An update's random numbers (`sampling.Draw`): of seed, update and sample alone."""

    def __init__(self, seed: int, update: int, samples: Sequence[Sample]) -> None:
        self.seed, self.update, self.samples = seed, update, samples
        self._later = count(LATER_NOISE)

    def below(self, limit: int) -> int:
        return int(np.random.default_rng([self.seed, self.update]).integers(limit))

    def noise(self, z: Tensor) -> Tensor:
        later = next(self._later)
        seeds = [noise_seed(self.seed, sample.number, later) for sample in self.samples]
        return initial_latents(seeds, (z.shape[1], z.shape[2], z.shape[3])).to(z)


@dataclass(frozen=True)
class Outcome:
    """What an update's samples came to."""

    graded: Graded
    drift: float
    """Distance of the embedding from the original's (`drifted`)."""
    looks: int
    """How often each sample was decoded and scored."""
    skipped: tuple[int, ...]
    """Rows that were left out in any of these."""


class Objective(nn.Module):
    """Samples to their loss. Holds the trained parameters; what is frozen is no part of its state."""

    def __init__(
        self,
        tuned: Trainee,
        config: TrainConfig,
        mix: RewardMix,
        denoiser: Denoiser,
        latent_shape: tuple[int, int, int],
        cache: PrefixCache | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__()
        self.tuned, self.config = tuned, config
        self._rest = _Rest(mix, denoiser, latent_shape, cache, pairs)
        if cache is not None and type(tuned.original.scheduler).__name__ not in MEMORYLESS:
            raise ConfigError(
                f"the prefix cache keeps latents alone, and sampler {config.sampler} remembers earlier "
                'steps: take sampler ddim or euler, or set prefix_cache = ""'
            )

    @property
    def denoiser(self) -> Denoiser:
        """The UNet with guidance."""
        return self._rest.denoiser

    @property
    def mix(self) -> RewardMix:
        """What is maximised."""
        return self._rest.mix

    def precision(self) -> torch.autocast:
        """Within it, forward passes are in the configured precision; rewards have one of their own."""
        kind = self.tuned.original.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def forward(self, samples: Sequence[Sample], update: int) -> tuple[Tensor, Outcome]:
        """The mean loss of ``samples`` (a scalar with the estimated gradient), and what they came to."""
        with self.precision():
            return self._loss(samples, update)

    def _loss(self, samples: Sequence[Sample], update: int) -> tuple[Tensor, Outcome]:
        config, texts = self.config, [sample.text for sample in samples]
        original, c = self.tuned.encode_original(texts), self.tuned.encode(texts)
        rollout, z = self.start(samples, original)
        goal = partial(
            look if config.estimator == "denoising" else grade,
            prompts=texts,
            vae=self.tuned.original.vae,
            mix=self.mix,
            slices=config.decode_slice,
            pool=config.reward_pool,
        )
        draw = UpdateDraw(config.seed, update, samples)
        estimate = ESTIMATORS[config.estimator](rollout, z, c, goal, draw)
        drift = drifted(c, original)
        loss = config.drift_penalty * drift - estimate.surrogate / len(samples)
        skipped = sorted({row for graded in estimate.graded for row in graded.skipped})
        looks = len(estimate.graded)
        return loss, Outcome(estimate.graded[-1], float(drift.detach()), looks, tuple(skipped))

    def start(self, samples: Sequence[Sample], original: Conditioning) -> tuple[Rollout, Tensor]:
        """The steps that carry gradients, and the latents before them (B, C, h, w), which the ``original``
        conditioning led to.
        """
        config, pipe = self.config, self.tuned.original
        if self._rest.pairs is not None:
            images = self._rest.pairs.images([sample.prompt for sample in samples]).to(pipe.device)
            with torch.no_grad():
                clean = encode_images(pipe.vae, images)
            rollout = Rollout(self.denoiser, pipe.scheduler, torch.empty(0), config.checkpointing)
            return rollout, clean
        if self._rest.cache is None:
            return self._prefix(samples, original)
        before, calls = config.steps - config.tuned_steps, self.denoiser.calls
        latents = self._rest.cache.latents(samples, lambda: self._prefix(samples, original)[1])
        if self.denoiser.calls == calls:
            self.denoiser.saved += before * len(original.embeds)
        begun = fresh(pipe.scheduler, config.steps, before, pipe.device)
        rollout = Rollout(self.denoiser, begun, begun.timesteps[before:], config.checkpointing)
        return rollout, latents.to(pipe.device)

    def _prefix(self, samples: Sequence[Sample], original: Conditioning) -> tuple[Rollout, Tensor]:
        """Run the first T - K steps with the original encoder's conditioning."""
        config, pipe = self.config, self.tuned.original
        scheduler = fresh(pipe.scheduler, config.steps, device=pipe.device)
        seeds = [sample.noise_seed for sample in samples]
        noise = initial_latents(seeds, self._rest.latent_shape).to(pipe.device)
        whole = Rollout(self.denoiser, scheduler, scheduler.timesteps, config.checkpointing)
        before, after = whole.split(len(scheduler.timesteps) - config.tuned_steps)
        with torch.no_grad():
            return after, before.run(noise * scheduler.init_noise_sigma, original)


@dataclass(frozen=True)
class _Rest:
    mix: RewardMix
    denoiser: Denoiser
    latent_shape: tuple[int, int, int]
    cache: PrefixCache | None
    pairs: Pairs | None


def drifted(c: Conditioning, original: Conditioning) -> Tensor:
    """Mean squared distance of the embeddings from the original ones, in the variance of those."""
    return (c.embeds - original.embeds).square().mean() / original.embeds.var()
