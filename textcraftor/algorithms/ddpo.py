"""Reinforcement learning on the sampling chain: rewards need no gradient.

DDPO (Black et al. 2023, "Training Diffusion Models with Reinforcement Learning", section 4.3): sampling with
DDIM at eta 1 is a chain of Gaussian decisions. Each is made more or less likely by the advantage of the image
it led to, with importance ratios clipped as in PPO. Trained on adapters of a text encoder it is TexForce
(Chen et al. 2024).

The log density of a decision is the mean over its elements instead of the sum, as in the authors' code
(ddpo-pytorch, ddim_with_logprob.py): the clip range of 1e-4 is made for that scale.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcbench.errors import ConfigError
from textcraftor.algorithms.base import Algorithm, StepResult
from textcraftor.algorithms.latent_scores import LatentScores
from textcraftor.diffusion.prompts import initial_latents, noise_seed
from textcraftor.diffusion.sampling import EXTRA_NOISE, Rollout, autocast
from textcraftor.sources import Batch, Sample

REMEMBERED_REWARDS = 32
"""Number of latest rewards of a prompt from which its statistics are computed."""

ENOUGH_REWARDS = 16
"""Number of rewards from which a prompt has separate statistics; the group size, if that is smaller."""

ADVANTAGE_CLIP = 5.0
"""Largest absolute advantage, in standard deviations."""


@dataclass(frozen=True)
class _Trajectory:
    """The decisions that n sampling steps made for B samples."""

    samples: Sequence[Sample]
    rollout: Rollout
    latents: tuple[Tensor, ...]
    """n + 1 latents (B, C, h, w): before, between and after the steps."""
    log_probs: Tensor
    """Log densities (n, B) of the decisions under the policy that made them."""

    def rows(self, rows: Sequence[int]) -> _Trajectory:
        """Return the trajectory of some of the samples."""
        index = torch.tensor(rows, device=self.log_probs.device)
        return _Trajectory(
            [self.samples[row] for row in rows],
            self.rollout,
            tuple(z[index] for z in self.latents),
            self.log_probs[:, index],
        )


def _step_std(scheduler: Any, t: Tensor, eta: float) -> float:
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


def _step_mean(scheduler: Any, e: Tensor, t: Tensor, z: Tensor, eta: float) -> Tensor:
    """Return the mean (B, C, h, w) of the next latents, given the UNet's output e."""
    # with noise 0 the scheduler's stochastic step gives its mean
    mean: Tensor = scheduler.step(e, t, z, eta=eta, variance_noise=torch.zeros_like(z)).prev_sample
    return mean


def _log_prob(following: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return the log density (B,) of ``following`` (B, C, h, w) under N(mean, std^2), mean over elements."""
    parts = -((following - mean).square()) / (2 * std**2) - math.log(std) - math.log(2 * math.pi) / 2
    return parts.flatten(1).mean(dim=1)


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


class _PromptAdvantages:
    """Advantages: rewards standardised by the statistics of their prompt's latest rewards.

    Some prompts get higher rewards than others for any image; statistics per prompt remove that from the
    signal (Black et al. 2023, section 4.3 and appendix). A prompt with few rewards so far uses
    those of the batch.

    Args:
        group: Samples of one prompt in a batch.
    """

    def __init__(self, group: int = 1) -> None:
        self.enough = min(ENOUGH_REWARDS, group) if group > 1 else ENOUGH_REWARDS
        self._history: dict[int, deque[float]] = {}

    def __call__(self, prompts: Sequence[int], rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the advantages (B,), clipped to ±5; 0 for a reward that is not finite.

        Args:
            prompts: Prompt numbers (B,).
            rewards: Rewards (B,); they are added to the prompts' history first.
        """
        finite = np.isfinite(rewards)
        for prompt, reward in zip(
            np.asarray(prompts)[finite].tolist(), rewards[finite].tolist(), strict=True
        ):
            self._history.setdefault(prompt, deque(maxlen=REMEMBERED_REWARDS)).append(reward)
        advantages = np.zeros(len(rewards))
        for row in np.flatnonzero(finite).tolist():
            history = self._history[prompts[row]]
            reference = np.array(history) if len(history) >= self.enough else rewards[finite]
            advantages[row] = (rewards[row] - reference.mean()) / (reference.std() + 1e-6)
        return advantages.clip(-ADVANTAGE_CLIP, ADVANTAGE_CLIP)

    def state(self) -> dict[str, Tensor]:
        """Return the remembered rewards, padded with NaN."""
        padded = [
            [*history, *[math.nan] * (REMEMBERED_REWARDS - len(history))]
            for history in self._history.values()
        ]
        return {
            "prompts": torch.tensor(list(self._history), dtype=torch.int64),
            "rewards": torch.tensor(padded, dtype=torch.float32).reshape(-1, REMEMBERED_REWARDS),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned."""
        pairs = zip(state["prompts"].tolist(), state["rewards"].tolist(), strict=True)
        self._history = {
            prompt: deque((value for value in row if not math.isnan(value)), maxlen=REMEMBERED_REWARDS)
            for prompt, row in pairs
        }


@dataclass
class DDPOAlgorithm(Algorithm):
    """Several clipped policy-gradient steps per update, on the images that the update sampled."""

    eta: float = field(kw_only=True)
    """Noise of each tuned step, above 0."""

    def __post_init__(self) -> None:
        self.advantages = _PromptAdvantages(self.group)

    def step(self, batch: Batch) -> StepResult:
        """Sample and score images, then make ``policy_updates`` optimiser steps on their decisions."""
        samples, updates = batch.samples, self.settings.policy_updates
        trajectories, scores, drift = [], [], 0.0
        for part in self.micro_batches(samples):
            trajectory, part_scores, part_drift = self.sample(part)
            trajectories.append(trajectory)
            scores.append(part_scores)
            drift += part_drift * len(part)
        joined = LatentScores.join(scores)
        advantages = self._advantages(samples, joined.rewards())

        # Each optimiser step uses its own random share of the samples, with all their decisions
        order = np.random.default_rng([self.seed, batch.update]).permutation(len(samples))
        norms, changes = [], []
        for share in np.array_split(order, updates):
            changes += self._accumulate(trajectories, advantages, share)
            norms.append(self.optimiser.step())
        return StepResult(
            samples,
            joined,
            drift / len(samples),
            float(np.mean(norms)),
            extra=self._policy_change(torch.cat(changes)),
        )

    @torch.no_grad()
    def sample(self, samples: Sequence[Sample]) -> tuple[_Trajectory, LatentScores, float]:
        """Sample images, remember every decision, and score them.

        A sample's noise depends on its number alone, so images do not depend on the batch.

        Returns:
            The decisions, the scores of the images, and the drift of the embeddings.
        """
        texts = [sample.text for sample in samples]
        with autocast(self.trainable.original.device, self.precision):
            original, c = self.trainable.encode_original(texts), self.trainable.encode(texts)
            rollout, z = self.start(samples, original)
            latents, log_probs = [z], []
            for index, t in enumerate(rollout.timesteps):
                mean = _step_mean(rollout.scheduler, rollout.output(z, t, c).float(), t, z, self.eta)
                std = _step_std(rollout.scheduler, t, self.eta)
                if std > 0:
                    seeds = [noise_seed(self.seed, s.number, EXTRA_NOISE + index) for s in samples]
                    z = mean + std * initial_latents(seeds, (z.shape[1], z.shape[2], z.shape[3])).to(z)
                    log_probs.append(_log_prob(z, mean, std))
                else:  # the last step may be deterministic, and then it is not a decision
                    z = mean
                latents.append(z)
            scores = self.scorer.score_latents(z, texts)
        if not log_probs:
            raise ConfigError(
                f"the last {len(rollout.timesteps)} steps are deterministic, so there are no decisions to "
                "train on; raise schedule.tuned_steps"
            )
        trajectory = _Trajectory(samples, rollout, tuple(latents), torch.stack(log_probs))
        return trajectory, scores, float(c.drift(original))

    def loss(self, trajectory: _Trajectory, index: int, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the decisions at step ``index``, and their change of log density (B,)."""
        rollout, z = trajectory.rollout, trajectory.latents[index]
        t = rollout.timesteps[index]
        texts = [sample.text for sample in trajectory.samples]
        # Encode again for every step and backpropagate at once: memory holds one step of the UNet
        with autocast(self.trainable.original.device, self.precision):
            c = self.trainable.encode(texts)
            e = rollout.output(z, t, c)
        mean = _step_mean(rollout.scheduler, e.float(), t, z, self.eta)
        now = _log_prob(trajectory.latents[index + 1], mean, _step_std(rollout.scheduler, t, self.eta))
        old = trajectory.log_probs[index]
        loss = clipped_policy_loss(now, old, advantages, self.settings.ratio_clip)
        if self.settings.drift_penalty:
            original = self.trainable.encode_original(texts)
            loss = loss + self.settings.drift_penalty * c.drift(original)
        return loss, (now - old).detach()

    def _accumulate(
        self, trajectories: Sequence[_Trajectory], advantages: Tensor, share: NDArray[np.int64]
    ) -> list[Tensor]:
        """Accumulate the gradients of some samples' decisions; return their changes of log density."""
        starts = accumulate((len(trajectory.samples) for trajectory in trajectories), initial=0)
        changes = []
        for trajectory, start in zip(trajectories, starts, strict=False):
            rows = [row - start for row in sorted(share.tolist())]
            rows = [row for row in rows if 0 <= row < len(trajectory.samples)]
            if not rows:
                continue
            part, steps = trajectory.rows(rows), len(trajectory.log_probs)
            # the mean over samples and steps, whatever the micro-batches are
            weight = len(rows) / len(share) / steps
            for index in range(steps):
                loss, change = self.loss(part, index, advantages[[start + row for row in rows]])
                (loss * weight).backward()  # type: ignore[no-untyped-call]
                changes.append(change)
        return changes

    def _policy_change(self, changes: Tensor) -> dict[str, float]:
        """Summarise how far the policy moved: the clipped share of decisions, and an estimate of the KL."""
        clipped = (changes.exp() - 1).abs() > self.settings.ratio_clip
        return {"clipped": float(clipped.float().mean()), "kl": float(changes.square().mean() / 2)}

    def _advantages(self, samples: Sequence[Sample], rewards: Tensor) -> Tensor:
        """Return the advantages (B,) of this process's samples, from the rewards of all processes."""
        accelerator = self.optimiser.accelerator
        prompts = torch.tensor([sample.prompt for sample in samples], device=rewards.device)
        all_rewards = accelerator.gather(rewards).cpu().double().numpy()
        advantages = self.advantages(accelerator.gather(prompts).tolist(), all_rewards)
        first = accelerator.process_index * len(samples)
        own = advantages[first : first + len(samples)]
        return torch.tensor(own, dtype=torch.float32, device=rewards.device)

    def state(self) -> dict[str, Tensor]:
        """Return the remembered rewards of each prompt."""
        return self.advantages.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned."""
        self.advantages.load_state(state)
