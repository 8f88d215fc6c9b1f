"""DiffusionNFT: reinforcement learning on the forward process, with deterministic DDIM.

Zheng et al. 2025, "DiffusionNFT: Online Diffusion Reinforcement with Forward Process". Images are sampled as
usual, noised again, and denoised: prediction errors of good images are lowered, those of bad ones raised, by
a negative policy that mirrors the trained one at the policy that sampled. No densities are needed, so the
sampler may be deterministic and training sees single timesteps.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from textcraftor.algorithms.advantages import group_advantages
from textcraftor.algorithms.base import Algorithm, StepResult
from textcraftor.algorithms.latent_scores import LatentScores
from textcraftor.diffusion.sampling import Rollout, autocast
from textcraftor.sources import Batch, Sample

_MIRRORED = 1.0
"""The paper's beta: share of the trained prediction in the positive one, and of its mirror image in the
negative one.
"""


@dataclass(frozen=True)
class _Noised:
    """Images of B samples, noised to one timestep."""

    samples: Sequence[Sample]
    rollout: Rollout
    step: int
    """Number of the sampling step whose timestep it is."""
    z: Tensor
    """Noised latents (B, C, h, w)."""
    x0: Tensor
    """Latents (B, C, h, w) of the images."""
    old: Tensor
    """Clean latents (B, C, h, w) that the policy which sampled predicts from ``z``, without guidance."""

    @property
    def t(self) -> Tensor:
        """The timestep."""
        return self.rollout.timesteps[self.step]

    def kept(self, numbers: Container[int]) -> _Noised | None:
        """Return the part of samples with these numbers; None if there is none."""
        rows = [row for row, sample in enumerate(self.samples) if sample.number in numbers]
        if len(rows) == len(self.samples):
            return self
        parts = {name: getattr(self, name)[rows] for name in ("z", "x0", "old")}
        return replace(self, samples=[self.samples[row] for row in rows], **parts) if rows else None


def _nft_loss(x0: Tensor, now: Tensor, old: Tensor, optimality: Tensor) -> Tensor:
    """Return DiffusionNFT's loss of B samples, their mean.

    With r the optimality and b the mirrored share: r |(1 - b) old + b now - x0|^2
    + (1 - r) |(1 + b) old - b now - x0|^2, each divided by its own mean absolute error.

    Args:
        x0: Latents (B, C, h, w) of the images.
        now: Clean latents that the trained policy predicts from their noised copies.
        old: Those that the policy predicts which sampled the images.
        optimality: r (B,) in [0, 1]: 1/2 for an average image of its group.

    Source: Zheng et al. 2025, equation 5, with the self-normalised weights of their section 3.3.
    """
    positive = (1 - _MIRRORED) * old + _MIRRORED * now
    negative = (1 + _MIRRORED) * old - _MIRRORED * now
    losses = [_normalised_error(predicted, x0) for predicted in (positive, negative)]
    return (optimality * losses[0] + (1 - optimality) * losses[1]).mean()


def _normalised_error(predicted: Tensor, x0: Tensor) -> Tensor:
    """Return the squared error (B,) per element over the mean absolute error, which carries no gradient."""
    difference = (predicted - x0).flatten(1)
    scale = difference.detach().abs().mean(dim=1).clamp_min(1e-6)
    return difference.square().mean(dim=1) / scale


@dataclass
class NFTAlgorithm(Algorithm):
    """Optimiser steps on the noised images of an update, ``policy_updates`` of them."""

    def step(self, batch: Batch) -> StepResult:
        """Sample and score images, noise them, then make optimiser steps on the noised images."""
        samples, updates = batch.samples, self.settings.policy_updates
        sampled, joined, drift = self.sample_parts(samples, partial(self.sample, update=batch.update))
        parts = list(chain.from_iterable(sampled))
        groups = [sample.number // self.group for sample in samples]
        advantages = self.gather_advantages(joined.rewards(), groups, group_advantages)
        optimality = {
            sample.number: 0.5 + 0.5 * float(advantage.clamp(-1, 1))
            for sample, advantage, whole in zip(samples, advantages, joined.finite, strict=True)
            if whole  # a broken image has a gradient that is not finite whatever its optimality is
        }

        # Each optimiser step takes its own random share of the timesteps, with all images
        steps = sorted({part.step for part in parts})
        order = np.random.default_rng([self.seed, batch.update]).permutation(steps)
        norms, losses = [], []
        for share in np.array_split(order, updates):
            kept = [part.kept(optimality) for part in parts if part.step in share]
            used = [images for images in kept if images is not None]
            count = sum(len(images.samples) for images in used)
            for images in used:
                loss = self.loss(images, optimality) * len(images.samples) / count
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(float(loss.detach()) / updates)
            norms.append(self.optimiser.step())
        extra = {"loss": sum(losses)}
        return StepResult(samples, joined, drift, float(np.mean(norms)), extra=extra)

    @torch.no_grad()
    def sample(self, samples: Sequence[Sample], update: int) -> tuple[list[_Noised], LatentScores, float]:
        """Sample and score images, and noise them to the timesteps that the update trains on.

        Returns:
            The noised images by timestep, the scores of the images, and the drift of the embeddings.
        """
        texts = [sample.text for sample in samples]
        noised = []
        with autocast(self.trainable.original.device, self.precision):
            original, c = self.trainable.encode_original(texts), self.trainable.encode(texts)
            rollout, z = self.start(samples, original)
            x0 = rollout.run(z, c).float()
            scores = self.scorer.score_latents(x0, texts)
            for index in self.choose_steps(range(len(rollout.timesteps)), update):
                t, process = rollout.timesteps[index], rollout.forward_process
                z = process.add_noise(x0, t, self.step_noise(samples, index, x0))
                # the policy of the first optimiser step is the one that sampled
                e = rollout.output(z, t, c.of_prompts(len(samples))).float()
                old = process.predict_x0(e, t, z)
                noised.append(_Noised(samples, rollout, index, z, x0, old))
        return noised, scores, float(c.drift(original))

    def loss(self, noised: _Noised, optimality: Mapping[int, float]) -> Tensor:
        """Return the mean loss of noised images.

        Predictions are those of the prompt alone, without guidance, as in the paper. There images are sampled
        without guidance too; here with the guidance of the schedule, which good images then teach as well.

        Args:
            noised: The images.
            optimality: r by the sample's number.
        """
        texts = [sample.text for sample in noised.samples]
        with autocast(self.trainable.original.device, self.precision):
            c = self.trainable.encode(texts)
            original = self.trainable.encode_original(texts) if self.settings.drift_penalty else c
            e = noised.rollout.output(noised.z, noised.t, c.of_prompts(len(texts))).float()
        now = noised.rollout.forward_process.predict_x0(e, noised.t, noised.z)
        r = torch.tensor([optimality[sample.number] for sample in noised.samples], device=now.device)
        loss = _nft_loss(noised.x0, now, noised.old, r)
        if self.settings.drift_penalty:
            loss = loss + self.settings.drift_penalty * c.drift(original)
        return loss
