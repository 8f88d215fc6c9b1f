"""How an update's samples become steps of the optimiser: by the rewards' gradients; `ddpo` does without."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tcbench.errors import ConfigError
from textcraftor.algorithms.objective import Objective, Outcome
from textcraftor.sources import Sample
from textcraftor.validation import TRAINED

Found = TypeVar("Found")


class Stepper:
    """The optimiser of the trained parameters, with accumulated and clipped gradients."""

    def __init__(
        self,
        accelerator: Any,
        optimiser: torch.optim.Optimizer,
        parameters: Iterable[nn.Parameter],
        clip: float,
    ) -> None:
        self.accelerator, self.optimiser = accelerator, optimiser
        self.parameters, self.clip = list(parameters), clip

    def accumulate(self, module: nn.Module, loss: Callable[[], tuple[Tensor, Found]], *, last: bool) -> Found:
        """Add the gradients of a loss; with the ``last`` one before a step, processes average theirs."""
        with nullcontext() if last else self.accelerator.no_sync(module):
            value, found = loss()
            self.accelerator.backward(value)
        return found

    def step(self) -> float:
        """One step, and away with the gradients. Returns their norm; if it is not finite nothing changes."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip if self.clip else float("inf"))
        if norm.isfinite():
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(norm)

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's state, by parameter's number and name."""
        states = self.optimiser.state_dict()["state"]
        return {f"{n}.{k}": torch.as_tensor(v) for n, state in states.items() for k, v in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from that."""
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".", 1)
            like = self.parameters[int(index)]  # whose memory format the fused optimiser wants
            placed = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            states.setdefault(int(index), {})[name] = placed
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": states, "param_groups": groups})


@dataclass(frozen=True)
class Made:
    """What an update came to."""

    outcomes: Sequence[tuple[Sequence[Sample], Outcome]]
    norm: float
    """Of the gradient, the mean over steps; not finite if a step was left out."""
    more: Mapping[str, float] = field(default_factory=dict)
    """Further numbers for the log."""

    def means(self, names: Mapping[str, str]) -> dict[str, float | None]:
        """For the log: over this process's finite samples, rewards by the ``names`` they are known by."""
        good = torch.cat([_kept(outcome) for _, outcome in self.outcomes])
        graded = [outcome.graded for _, outcome in self.outcomes]

        def mean(values: Iterable[Tensor]) -> float | None:
            found = torch.cat(list(values))[good]
            return float(found.float().mean()) if len(found) else None

        drifts = [outcome.drift * len(samples) for samples, outcome in self.outcomes]
        row = {
            TRAINED: mean(part.total for part in graded),
            "grad_norm": self.norm if math.isfinite(self.norm) else None,
            "drift": sum(drifts) / len(good),
        }
        for name in graded[0].scores:
            row[f"reward/{names[name]}"] = mean(part.scores[name] for part in graded)
            if name in graded[0].norms:
                row[f"pull/{names[name]}"] = mean(part.norms[name] for part in graded)
        return row | dict(self.more)


class Learner(Protocol):
    """One way to learn."""

    @property
    def module(self) -> nn.Module:
        """What is trained, to be wrapped for several processes."""

    def update(self, module: nn.Module, samples: Sequence[Sample], update: int, stepper: Stepper) -> Made:
        """Learn from this process's samples of an update. ``module`` is the wrapped one."""

    def tensors(self) -> dict[str, Tensor]:
        """What it goes on from, beside parameters and optimiser."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from that."""


class GradientLearner:
    """One step by the gradient of the mix, through the sampling chain (TextCraftor)."""

    def __init__(self, objective: Objective) -> None:
        self.module = objective

    def update(self, module: nn.Module, samples: Sequence[Sample], update: int, stepper: Stepper) -> Made:
        outcomes: list[tuple[Sequence[Sample], Outcome]] = []
        parts = list(chunks(samples, self.module.config.micro_batch))
        for place, part in enumerate(parts):

            def loss(part: Sequence[Sample] = part) -> tuple[Tensor, Outcome]:
                value, outcome = module(part, update)
                return value * (len(part) / len(samples)), outcome

            last = place == len(parts) - 1
            outcomes.append((part, stepper.accumulate(module, loss, last=last)))
        return Made(outcomes, stepper.step())

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """There is nothing."""


def _kept(outcome: Outcome) -> Tensor:
    graded = outcome.graded
    kept = torch.ones(len(graded.total), dtype=torch.bool, device=graded.total.device)
    kept[list(outcome.skipped)] = False
    return kept


def worth(outcomes: Iterable[Outcome]) -> Tensor:
    """What all their samples were worth by the mix (B,), float32; NaN for one that was left out."""
    found = []
    for outcome in outcomes:
        total = outcome.graded.total.float().clone()
        total[list(outcome.skipped)] = math.nan
        found.append(total)
    return torch.cat(found)


def check_shares(policy_updates: int, samples: int) -> None:
    """Raises ConfigError where a process has fewer samples than optimiser steps to share them."""
    if policy_updates > samples:
        raise ConfigError(
            f"policy_updates is {policy_updates}, but a process has {samples} samples of an update: "
            "lower it, or raise batch"
        )


def chunks(samples: Sequence[Sample], size: int) -> Iterable[Sequence[Sample]]:
    """``size`` samples at a time; 0: all."""
    size = size or len(samples)
    return (samples[start : start + size] for start in range(0, len(samples), size))
