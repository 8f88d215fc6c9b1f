"""Reinforcement learning on the sampling chain: rewards need no gradients.

DDPO (Black et al. 2023, "Training Diffusion Models with Reinforcement Learning", section 4.3): sampling with
DDIM at eta 1 is a chain of Gaussian decisions; each is made more or less likely by the advantage of the image
it led to, with importance weights clipped as in PPO. Trained on a text encoder's adapters it is TexForce
(Chen et al. 2024). The logarithm of a decision's density is the mean over its elements, as in the authors'
code (ddpo-pytorch, ddim_with_logprob.py), which the clip range 1e-4 is made for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tcbench.errors import ConfigError
from textcraftor.algorithms.goal import look
from textcraftor.algorithms.learners import Made, Stepper, check_shares, chunks, worth
from textcraftor.algorithms.objective import LATER_NOISE, Objective, Outcome, drifted
from textcraftor.diffusion.prompts import initial_latents, noise_seed
from textcraftor.diffusion.sampling import Rollout
from textcraftor.sources import Sample

BUFFER, ENOUGH = 32, 16
"""Of a prompt's rewards that are remembered, and how many of them make statistics of its own; as many as are
drawn of it at once, if that is fewer.
"""

ADVANTAGE_CLIP = 5.0


@dataclass(frozen=True)
class Trajectory:
    """What some samples decided: latents (n + 1 of (B, C, h, w)) before, between and after n steps, and the
    logarithms of their densities (n, B).
    """

    samples: Sequence[Sample]
    rollout: Rollout
    latents: tuple[Tensor, ...]
    log_probs: Tensor

    def rows(self, rows: Sequence[int]) -> Trajectory:
        """Of some of the samples."""
        index = torch.tensor(rows, device=self.log_probs.device)
        return Trajectory(
            [self.samples[row] for row in rows],
            self.rollout,
            tuple(z[index] for z in self.latents),
            self.log_probs[:, index],
        )


def deviation(scheduler: Any, t: Tensor, eta: float) -> float:
    """Of a DDIM step's noise: eta sqrt((1 - a') / (1 - a) (1 - a / a')), a and a' the products of alphas at t
    and at the timestep after it (Song et al. 2021, "Denoising Diffusion Implicit Models", equation 16).
    """
    after = int(t) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    a = float(scheduler.alphas_cumprod[int(t)])
    following = float(scheduler.alphas_cumprod[after] if after >= 0 else scheduler.final_alpha_cumprod)
    return eta * math.sqrt(max(0.0, (1 - following) / (1 - a) * (1 - a / following)))


def decision(rollout: Rollout, e: Tensor, t: Tensor, z: Tensor, eta: float) -> Tensor:
    """The mean of the next latents, given the UNet's output."""
    still = torch.zeros_like(z)
    found: Tensor = rollout.scheduler.step(e, t, z, eta=eta, variance_noise=still).prev_sample
    return found


def log_prob(following: Tensor, mean: Tensor, std: float) -> Tensor:
    """Logarithm (B,) of the Gaussian density of ``following`` (B, C, h, w), the mean over its elements."""
    parts = -((following - mean).square()) / (2 * std**2) - math.log(std) - math.log(2 * math.pi) / 2
    return parts.flatten(1).mean(dim=1)


def policy_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's clipped loss (a scalar) of decisions (B,): their log densities now and when they were made."""
    ratio = torch.exp(log_probs - old)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)).mean()


class Advantages:
    """Rewards by the mean and deviation of their prompt's last ones; of the batch's for a prompt with few."""

    def __init__(self, group: int = 1) -> None:
        self.enough = min(ENOUGH, group) if group > 1 else ENOUGH
        self._seen: dict[int, deque[float]] = {}

    def __call__(self, prompts: Sequence[int], rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """Advantages (B,), clipped; 0 for a reward that is not finite."""
        good = np.isfinite(rewards)
        for prompt, reward in zip(np.asarray(prompts)[good].tolist(), rewards[good].tolist(), strict=True):
            self._seen.setdefault(prompt, deque(maxlen=BUFFER)).append(reward)
        found = np.zeros(len(rewards))
        for row in np.flatnonzero(good).tolist():
            own = self._seen[prompts[row]]
            known = np.array(own) if len(own) >= self.enough else rewards[good]
            found[row] = (rewards[row] - known.mean()) / (known.std() + 1e-6)
        return found.clip(-ADVANTAGE_CLIP, ADVANTAGE_CLIP)

    def tensors(self) -> dict[str, Tensor]:
        """The rewards that are remembered."""
        rows = [[*own, *[math.nan] * (BUFFER - len(own))] for own in self._seen.values()]
        return {
            "prompts": torch.tensor(list(self._seen), dtype=torch.int64),
            "rewards": torch.tensor(rows, dtype=torch.float32).reshape(-1, BUFFER),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from them."""
        pairs = zip(tensors["prompts"].tolist(), tensors["rewards"].tolist(), strict=True)
        self._seen = {
            prompt: deque((value for value in row if not math.isnan(value)), maxlen=BUFFER)
            for prompt, row in pairs
        }


class Policy(nn.Module):
    """Decisions to their loss. Holds the trained parameters."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, trajectory: Trajectory, place: int, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss of one step's decisions, and how far their log densities (B,) have moved."""
        config, rollout = self.objective.config, trajectory.rollout
        t = rollout.timesteps[place]
        texts = [sample.text for sample in trajectory.samples]
        with self.objective.precision():
            c = self.objective.tuned.encode(texts)
            e = rollout.output(trajectory.latents[place], t, c)
        mean = decision(rollout, e.float(), t, trajectory.latents[place], config.eta)
        found = log_prob(trajectory.latents[place + 1], mean, deviation(rollout.scheduler, t, config.eta))
        old = trajectory.log_probs[place]
        loss = policy_loss(found, old, advantages, config.ratio_clip)
        if config.drift_penalty:
            loss = loss + config.drift_penalty * drifted(c, self.objective.tuned.encode_original(texts))
        return loss, (found - old).detach()

    @torch.no_grad()
    def roll(self, samples: Sequence[Sample]) -> tuple[Trajectory, Outcome]:
        """Draw ``samples``, and score what comes of them. A sample's noises depend on its number alone."""
        objective, config = self.objective, self.objective.config
        texts = [sample.text for sample in samples]
        with objective.precision():
            original, c = objective.tuned.encode_original(texts), objective.tuned.encode(texts)
            rollout, z = objective.start(samples, original)
            latents, log_probs = [z], []
            for place, t in enumerate(rollout.timesteps):
                mean = decision(rollout, rollout.output(z, t, c).float(), t, z, config.eta)
                std = deviation(rollout.scheduler, t, config.eta)
                if std > 0:
                    seeds = [noise_seed(config.seed, s.number, LATER_NOISE + place) for s in samples]
                    z = mean + std * initial_latents(seeds, (z.shape[1], z.shape[2], z.shape[3])).to(z)
                    log_probs.append(log_prob(z, mean, std))
                else:
                    z = mean
                latents.append(z)
            graded = look(
                z,
                texts,
                vae=objective.tuned.original.vae,
                mix=objective.mix,
                slices=config.decode_slice,
                pool=config.reward_pool,
            )
        if not log_probs:
            raise ConfigError(
                f"the last {config.tuned_steps} steps have no noise to decide by: raise tuned_steps"
            )
        outcome = Outcome(graded, float(drifted(c, original)), 1, graded.skipped)
        return Trajectory(samples, rollout, tuple(latents), torch.stack(log_probs)), outcome


class PolicyLearner:
    """Several steps by what a batch of drawn images was worth (DDPO)."""

    def __init__(self, objective: Objective) -> None:
        self.module = Policy(objective)
        self.advantages = Advantages(objective.config.group)

    def update(self, module: nn.Module, samples: Sequence[Sample], update: int, stepper: Stepper) -> Made:
        config = self.module.objective.config
        check_shares(config.policy_updates, len(samples))
        rolled = [self.module.roll(part) for part in chunks(samples, config.micro_batch)]
        advantages = self._advantages(samples, [outcome for _, outcome in rolled], stepper.accelerator)
        starts = list(accumulate((len(trajectory.samples) for trajectory, _ in rolled), initial=0))
        order = np.random.default_rng([config.seed, update]).permutation(len(samples))
        norms, moved = [], []
        for share in np.array_split(order, config.policy_updates):
            parts = []
            for (trajectory, _), start in zip(rolled, starts, strict=False):
                rows = [row - start for row in sorted(share.tolist())]
                rows = [row for row in rows if 0 <= row < len(trajectory.samples)]
                if rows:
                    parts.append((trajectory.rows(rows), advantages[[start + row for row in rows]]))
            moved += self._learn(module, parts, len(share), stepper)
            norms.append(stepper.step())
        changes = torch.cat(moved)
        clipped = (changes.exp() - 1).abs() > config.ratio_clip
        more = {"clipped": float(clipped.float().mean()), "kl": float(changes.square().mean() / 2)}
        outcomes = [(trajectory.samples, outcome) for trajectory, outcome in rolled]
        return Made(outcomes, float(np.mean(norms)), more)

    def _learn(
        self, module: nn.Module, parts: Sequence[tuple[Trajectory, Tensor]], count: int, stepper: Stepper
    ) -> list[Tensor]:
        """Gradients of ``count`` samples' decisions at every step."""
        jobs = [
            (trajectory, place, advantages)
            for trajectory, advantages in parts
            for place in range(len(trajectory.log_probs))
        ]
        moved = []
        for number, (trajectory, place, advantages) in enumerate(jobs):
            weight = len(trajectory.samples) / count / len(trajectory.log_probs)

            def loss(
                trajectory: Trajectory = trajectory,
                place: int = place,
                advantages: Tensor = advantages,
                weight: float = weight,
            ) -> tuple[Tensor, Tensor]:
                value, change = module(trajectory, place, advantages)
                return value * weight, change

            moved.append(stepper.accumulate(module, loss, last=number == len(jobs) - 1))
        return moved

    def _advantages(self, samples: Sequence[Sample], outcomes: Sequence[Outcome], accelerator: Any) -> Tensor:
        """Of this process's samples (B,), by the rewards of all processes'."""
        own = worth(outcomes)
        prompts = torch.tensor([sample.prompt for sample in samples], device=own.device)
        rewards, numbers = (
            accelerator.gather(own).cpu().double().numpy(),
            accelerator.gather(prompts).tolist(),
        )
        found = self.advantages(numbers, rewards)
        first = accelerator.process_index * len(samples)
        return torch.tensor(found[first : first + len(samples)], dtype=torch.float32, device=own.device)

    def tensors(self) -> dict[str, Tensor]:
        return self.advantages.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.advantages.restore(tensors)
