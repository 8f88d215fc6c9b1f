"""Common parts of training algorithms: their interface, the result of an update, and the optimiser step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from textcraftor.algorithms.advantages import Advantages
from textcraftor.algorithms.latent_scores import LatentScorer, LatentScores
from textcraftor.algorithms.rollouts import RolloutStart
from textcraftor.diffusion.estimators import UpdateRandom
from textcraftor.settings import AlgorithmSettings, OptimiserSettings
from textcraftor.sources import Batch, Sample
from textcraftor.tuned import Trainable

_STEP_CHOICE = 1
"""Stream of random numbers that chooses the steps of an update."""

Part = TypeVar("Part")
"""Data of one sampled micro-batch, kept for its updates."""

TRAINED = "trained"
"""Name of the reward mix among the scores of a log line or a validation."""


@dataclass
class Algorithm(ABC):
    """A training method: what it works with, and one update."""

    trainable: Trainable
    """The trained parameters, with the frozen pipeline."""
    start: RolloutStart
    """Generates the latents before the tuned steps."""
    scorer: LatentScorer
    """Decodes and scores latents."""
    optimiser: ClippedOptimiser
    """Optimiser of the trained parameters."""
    settings: AlgorithmSettings
    _: KW_ONLY
    seed: int
    """Seed of the algorithm's random numbers."""
    group: int = 1
    """Consecutive samples of a batch that share a prompt."""
    micro_batch: int = 0
    """Samples at a time, whose gradients are accumulated; 0: all."""
    precision: str = "float32"
    """Precision of forward passes, "float32" or "bfloat16"."""

    @abstractmethod
    def step(self, batch: Batch) -> StepResult:
        """Train on one process's samples of an update."""

    def micro_batches(self, samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
        """Split samples into consecutive parts of ``micro_batch``; 0: one part."""
        size = self.micro_batch or len(samples)
        return (samples[start : start + size] for start in range(0, len(samples), size))

    def sample_parts(
        self,
        samples: Sequence[Sample],
        sample: Callable[[Sequence[Sample]], tuple[Part, LatentScores, float]],
    ) -> tuple[list[Part], LatentScores, float]:
        """Sample micro-batch by micro-batch.

        Args:
            samples: All samples of this process.
            sample: Samples and scores some of them; returns their data, the scores, and the drift.

        Returns:
            Data of each micro-batch, the scores of all samples, and their mean drift.
        """
        parts, scores, drift = [], [], 0.0
        for some in self.micro_batches(samples):
            part, part_scores, part_drift = sample(some)
            parts.append(part)
            scores.append(part_scores)
            drift += part_drift * len(some) / len(samples)
        return parts, LatentScores.join(scores), drift

    def step_noise(self, samples: Sequence[Sample], step: int, like: Tensor) -> Tensor:
        """Return standard normal noise (B, C, h, w) of a sampling step; row i depends on sample i alone.

        Args:
            samples: B samples.
            step: Number of the step.
            like: Latents (B, C, h, w), for shape and device.
        """
        random = UpdateRandom(self.seed, 0, [sample.number for sample in samples])
        return random.noise_of_step(step, like)

    def gather_advantages(self, rewards: Tensor, groups: Sequence[int], compute: Advantages) -> Tensor:
        """Return the advantages (B,) of this process's samples, computed from those of all processes.

        Args:
            rewards: Rewards (B,) of this process's samples.
            groups: Number (B,) of each sample's prompt or group.
            compute: Computes advantages.
        """
        accelerator = self.optimiser.accelerator
        all_groups = accelerator.gather(torch.tensor(groups, device=rewards.device)).tolist()
        all_rewards = accelerator.gather(rewards).cpu().double().numpy()
        first = accelerator.process_index * len(rewards)
        own = compute(all_groups, all_rewards)[first : first + len(rewards)]
        return torch.tensor(own, dtype=torch.float32, device=rewards.device)

    def choose_steps(self, steps: Sequence[int], update: int) -> list[int]:
        """Return ``policy_steps`` of some sampling steps in order, the same random ones in every process."""
        count = self.settings.policy_steps
        if not count or count >= len(steps):
            return list(steps)
        random = np.random.default_rng([self.seed, update, _STEP_CHOICE])
        return sorted(random.choice(steps, count, replace=False).tolist())

    def state(self) -> dict[str, Tensor]:
        """Return what the algorithm needs to resume, beside parameters and optimiser."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most algorithms have no state
        """Resume from what `state` returned."""


@dataclass(frozen=True)
class StepResult:
    """Result of one update, for the B samples of one process."""

    samples: Sequence[Sample]
    scores: LatentScores
    """Rewards of the samples' images."""
    drift: float
    """Distance of the embeddings from the original ones (`Conditioning.drift`), the mean over samples."""
    grad_norm: float
    """Norm of the gradient before clipping, the mean over optimiser steps; not finite if one was skipped."""
    evaluations: int = 1
    """How often each sample was decoded and scored."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further numbers for the log."""

    @property
    def skipped(self) -> list[Sample]:
        """Samples that were skipped: their rewards or gradients, or the whole step, were not finite."""
        if not math.isfinite(self.grad_norm):
            return list(self.samples)
        return [self.samples[row] for row in self.scores.skipped]


class ClippedOptimiser:
    """An optimiser step: average gradients over processes, clip their norm, step, zero the gradients.

    Args:
        accelerator: accelerate's handle of the processes.
        optimiser: Optimiser of ``parameters``.
        parameters: Trained parameters, in the same order in every process.
        clip: Largest norm of the gradient; 0: no clipping.
        lr: Learning rate by update.
    """

    @classmethod
    def adamw(
        cls, accelerator: Any, parameters: Iterable[nn.Parameter], settings: OptimiserSettings
    ) -> ClippedOptimiser:
        """Make an AdamW optimiser with a learning-rate schedule."""
        parameters, factor = list(parameters), _learning_rate_factor(settings)
        optimiser = torch.optim.AdamW(
            parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        return cls(accelerator, optimiser, parameters, settings.clip, lambda n: settings.lr * factor(n))

    def __init__(
        self,
        accelerator: Any,
        optimiser: torch.optim.Optimizer,
        parameters: Iterable[nn.Parameter],
        clip: float,
        lr: Callable[[int], float],
    ) -> None:
        self.accelerator, self.optimiser, self.clip = accelerator, optimiser, clip
        self.parameters, self._lr = list(parameters), lr

    def set_learning_rate(self, update: int) -> float:
        """Set the learning rate of an update, and return it."""
        lr = self._lr(update)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        return lr

    def step(self) -> float:
        """Apply the accumulated gradients and zero them.

        Returns:
            The norm of the gradient before clipping. If it is not finite or 0, no parameter changes: without
            a gradient, weight decay and momentum would still move them.
        """
        _average_gradients(self.accelerator, self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip if self.clip else float("inf"))
        # the norm is the same in every process, so that all of them step or none does
        if norm.isfinite() and norm > 0:
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's state by the parameter's number and the entry's name."""
        states = self.optimiser.state_dict()["state"]
        return {f"{n}.{k}": torch.as_tensor(v) for n, state in states.items() for k, v in state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned."""
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            index, name = key.split(".", 1)
            parameter = self.parameters[int(index)]
            # the fused optimiser requires moments in the memory format of their parameter
            copied = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            states.setdefault(int(index), {})[name] = copied
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": states, "param_groups": groups})


def _average_gradients(accelerator: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes.

    Once an update, after accumulation, instead of wrapping the model (DistributedDataParallel): the processes
    then need not backpropagate through the same graph, and micro-batches are not synchronised one by one.
    """
    if accelerator.num_processes == 1:
        return
    parameters = list(parameters)
    # a process whose samples are all broken has no gradients, and no process has those of unused parameters
    own = torch.tensor([float(p.grad is not None) for p in parameters], device=accelerator.device)
    for parameter, processes in zip(parameters, accelerator.reduce(own, "sum").tolist(), strict=True):
        if processes:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = accelerator.reduce(gradient, "mean")


def _learning_rate_factor(settings: OptimiserSettings) -> Callable[[int], float]:
    """Return the factor of the learning rate by update, with diffusers' schedules."""
    from diffusers.optimization import get_scheduler

    # the schedules are functions inside torch's schedulers, which require an optimiser
    unused = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rising = settings.lr_schedule == "constant" and settings.warmup
    schedule = get_scheduler(
        "constant_with_warmup" if rising else settings.lr_schedule,
        unused,
        num_warmup_steps=settings.warmup,
        num_training_steps=settings.updates,
    )
    factor: Callable[[int], float] = schedule.lr_lambdas[0]
    return factor
