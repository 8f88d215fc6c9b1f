"""Reinforcement learning on the sampling chain: rewards need no gradient.

DDPO (Black et al. 2023, "Training Diffusion Models with Reinforcement Learning", section 4.3): sampling with
DDIM at eta 1 is a chain of Gaussian decisions. Each is made more or less likely by the advantage of the image
it led to, with importance ratios clipped as in PPO. Trained on adapters of a text encoder it is TexForce
(Chen et al. 2024).

GRPO (Liu et al. 2025, "Flow-GRPO"; Xue et al. 2025, "DanceGRPO", on Stable Diffusion 1.4 too) differs in the
advantages, which compare the samples of a group instead of a prompt's history, and commonly trains on some of
the steps only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcbench.errors import ConfigError
from textcraftor.algorithms.advantages import PromptAdvantages, group_advantages
from textcraftor.algorithms.base import Algorithm, StepResult
from textcraftor.algorithms.latent_scores import LatentScores
from textcraftor.algorithms.trajectories import StochasticSteps, Trajectory
from textcraftor.diffusion.sampling import autocast
from textcraftor.sources import Batch, Sample

_CLIP_ELEMENTS = 16_384
"""Elements of the latents that ``ratio_clip`` is stated for: those of SD 1.5 at 512 pixels."""


def clipped_policy_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return PPO's clipped surrogate loss (a scalar), the mean over B decisions.

    Args:
        log_probs: Log densities (B,) under the current policy.
        old: Log densities (B,) under the policy that made the decisions.
        advantages: Advantages (B,) of the decisions.
        clip: How far from 1 the importance ratio may move before its gradient is cut.

    Source: Schulman et al. 2017 (PPO), equation 7.
    """
    # The ratio is 1 in value when the policy has not moved yet, but its gradient is that of log_probs: the
    # first optimiser step of an update is the plain policy gradient.
    ratio = torch.exp(log_probs - old)
    # The maximum of the two losses is the pessimistic one: moving further than the clip range gains nothing,
    # while moving back is always rewarded.
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)).mean()


@dataclass
class PolicyGradientAlgorithm(Algorithm):
    """Several clipped policy-gradient steps per update, on the images that the update sampled."""

    eta: float = field(kw_only=True)
    """Noise of each tuned step, above 0."""

    def __post_init__(self) -> None:
        self.history = PromptAdvantages(self.group) if self.settings.name == "ddpo" else None

    def step(self, batch: Batch) -> StepResult:
        """Sample and score images, then make ``policy_updates`` optimiser steps on their decisions."""
        samples, updates = batch.samples, self.settings.policy_updates
        trajectories, joined, drift = self.sample_parts(samples, partial(self.sample, update=batch.update))
        advantages = self._advantages(samples, joined.rewards())

        # Each optimiser step uses its own random share of the samples, with all their decisions
        order = np.random.default_rng([self.seed, batch.update]).permutation(len(samples))
        norms, changes = [], []
        for share in np.array_split(order, updates):
            # a broken image has broken latents, whose gradient is not finite whatever its advantage is
            whole = share[joined.finite.cpu().numpy()[share]]
            changes += self._accumulate(trajectories, advantages, whole)
            norms.append(self.optimiser.step())
        extra = self._policy_change(torch.cat(changes))
        return StepResult(samples, joined, drift, float(np.mean(norms)), extra=extra)

    @torch.no_grad()
    def sample(self, samples: Sequence[Sample], update: int) -> tuple[Trajectory, LatentScores, float]:
        """Sample images, remember the decisions to train on, and score the images.

        A sample's noise depends on its number alone, so images do not depend on the batch.

        Returns:
            The decisions, the scores of the images, and the drift of the embeddings.
        """
        texts = [sample.text for sample in samples]
        with autocast(self.trainable.original.device, self.precision):
            original, c = self.trainable.encode_original(texts), self.trainable.encode(texts)
            rollout, z = self.start(samples, original)
            steps = StochasticSteps(rollout.scheduler, self.eta)
            stds = [steps.std(t) for t in rollout.timesteps]
            chosen = self._trained_steps(stds, update)
            latents, log_probs = [z], {}
            for index, (t, std) in enumerate(zip(rollout.timesteps, stds, strict=True)):
                z = steps.mean(rollout.output(z, t, c).float(), t, z)
                if std > 0:
                    mean, z = z, z + std * self.step_noise(samples, index, z)
                    if index in chosen:
                        log_probs[index] = steps.log_density(z, mean, std)
                latents.append(z)
            scores = self.scorer.score_latents(z, texts)
        return Trajectory(samples, rollout, tuple(latents), log_probs), scores, float(c.drift(original))

    def loss(self, trajectory: Trajectory, index: int, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the decisions at step ``index``, and their change of log density (B,)."""
        rollout, z, settings = trajectory.rollout, trajectory.latents[index], self.settings
        t, following = rollout.timesteps[index], trajectory.latents[index + 1]
        texts = [sample.text for sample in trajectory.samples]
        # Encode again for every step and backpropagate at once: memory holds one step of the UNet
        with autocast(self.trainable.original.device, self.precision):
            c = self.trainable.encode(texts)
            penalised = settings.drift_penalty or settings.kl_penalty
            original = self.trainable.encode_original(texts) if penalised else c
            e = rollout.output(z, t, c)
        steps = StochasticSteps(rollout.scheduler, self.eta)
        mean, std = steps.mean(e.float(), t, z), steps.std(t)
        now, old = steps.log_density(following, mean, std), trajectory.log_probs[index]
        loss = clipped_policy_loss(now, old, advantages, self._ratio_clip(z))
        if settings.drift_penalty:
            loss = loss + settings.drift_penalty * c.drift(original)
        if settings.kl_penalty:
            with torch.no_grad(), autocast(self.trainable.original.device, self.precision):
                reference = steps.mean(rollout.output(z, t, original).float(), t, z)
            # the divergence of two Gaussians with the same deviation, per element as the densities are
            loss = loss + settings.kl_penalty * (mean - reference).square().mean() / (2 * std**2)
        return loss, (now - old).detach()

    def _trained_steps(self, stds: Sequence[float], update: int) -> set[int]:
        """Return the steps whose decisions this update trains on."""
        decisions = StochasticSteps.trainable_steps(stds, self.settings.min_noise)
        if not decisions:
            raise ConfigError(
                f"the last {len(stds)} steps are deterministic, so there are no decisions to train on; raise "
                "schedule.tuned_steps"
            )
        return set(self.choose_steps(decisions, update))

    def _ratio_clip(self, z: Tensor) -> float:
        """Return the clip range for densities that are means over the elements of these latents.

        A mean over n elements is 1 / n of the log density of the whole decision, so the range that allows the
        same change of the decision is as much wider as there are fewer elements.
        """
        return self.settings.ratio_clip * _CLIP_ELEMENTS / z[0].numel()

    def _accumulate(
        self, trajectories: Sequence[Trajectory], advantages: Tensor, share: NDArray[np.int64]
    ) -> list[Tensor]:
        """Accumulate the gradients of some samples' decisions.

        Returns:
            Parts of the decisions' changes of log density, in units of the clip range.
        """
        starts = accumulate((len(trajectory.samples) for trajectory in trajectories), initial=0)
        changes = [torch.zeros(0, device=advantages.device)]
        for trajectory, start in zip(trajectories, starts, strict=False):
            rows = [row - start for row in sorted(share.tolist())]
            rows = [row for row in rows if 0 <= row < len(trajectory.samples)]
            if not rows:
                continue
            part = trajectory.rows(rows)
            # the mean over samples and steps, whatever the micro-batches are
            weight = len(rows) / len(share) / len(part.log_probs)
            for index in part.log_probs:
                loss, change = self.loss(part, index, advantages[[start + row for row in rows]])
                (loss * weight).backward()  # type: ignore[no-untyped-call]
                changes.append(change / self._ratio_clip(part.latents[0]))
        return changes

    def _policy_change(self, changes: Tensor) -> dict[str, float]:
        """Summarise how far the policy moved: the clipped share of decisions, and an estimate of the KL.

        Both are in the scale of ``ratio_clip``, of latents of 16,384 elements.

        Args:
            changes: Changes of log density (N,), in units of the clip range; N may be 0.
        """
        if not len(changes):
            return {"clipped": 0.0, "kl": 0.0}
        change = changes * self.settings.ratio_clip
        clipped = (change.exp() - 1).abs() > self.settings.ratio_clip
        return {"clipped": float(clipped.float().mean()), "kl": float(change.square().mean() / 2)}

    def _advantages(self, samples: Sequence[Sample], rewards: Tensor) -> Tensor:
        """Return the advantages (B,) of this process's samples, from the rewards of all processes."""
        by_prompt = self.history is not None
        groups = [sample.prompt if by_prompt else sample.number // self.group for sample in samples]
        return self.gather_advantages(rewards, groups, self.history or group_advantages)

    def state(self) -> dict[str, Tensor]:
        """Return the remembered rewards of each prompt (DDPO)."""
        return self.history.state() if self.history else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned."""
        if self.history:
            self.history.load_state(state)
