"""Rewards that must not fall below the untuned model: a multiplier of each one's weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_START = 2.0
"""Multiplier before the first update. From 1, alignment was lost before the multiplier had risen."""

_RATE = 0.5
"""Change of a multiplier per update and standard deviation of the reward."""

_STATE = "multipliers"


@dataclass
class Constraints:
    """Multipliers of rewards whose mean must stay at least the untuned model's.

    max min over multipliers m >= 0 of quality + m (reward - base), by gradient steps on both: m rises while
    the reward's mean over a batch is below the untuned model's, and falls to 0 while it is above. The
    calibration standardises a reward by the untuned model's mean, so its value is the difference. m
    multiplies the reward's weight; where gradients are balanced, this formula is only the motivation.

    Source: Arrow, Hurwicz and Uzawa 1958, "Studies in Linear and Non-linear Programming" (gradient steps on
    both sides of a saddle point).
    """

    names: Sequence[str]
    """The rewards, by their name in the mix; they are standardised."""
    multipliers: dict[str, float] = field(init=False)
    """Factor of each reward's weight. The scorer reads this mapping."""

    def __post_init__(self) -> None:
        self.multipliers = dict.fromkeys(self.names, _START)

    def update(self, means: Mapping[str, float]) -> None:
        """Move the multipliers after an update.

        Args:
            means: Mean of the standardised reward over the update's samples, by name; one that is not finite
                changes nothing.
        """
        for name in self.names:
            if math.isfinite(means[name]):
                moved = max(0.0, self.multipliers[name] - _RATE * means[name])
                self.multipliers[name] = torch.tensor(moved, dtype=torch.float32).item()  # as it is saved

    @property
    def row(self) -> dict[str, float]:
        """The multipliers, for the log."""
        return {f"multiplier/{name}": value for name, value in self.multipliers.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the multipliers in the order of the names."""
        if not self.names:
            return {}
        return {_STATE: torch.tensor([self.multipliers[name] for name in self.names], dtype=torch.float32)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned."""
        self.multipliers.update(zip(self.names, state[_STATE].tolist(), strict=True))
