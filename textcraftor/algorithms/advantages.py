"""Advantages of samples over others of the same prompt: what methods without reward gradients learn from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REMEMBERED_REWARDS = 32
"""Number of latest rewards of a prompt from which its statistics are computed."""

ENOUGH_REWARDS = 16
"""Number of rewards from which a prompt has separate statistics; the group size, if that is smaller."""

ADVANTAGE_CLIP = 5.0
"""Largest absolute advantage, in standard deviations."""

Advantages = Callable[[Sequence[int], NDArray[np.float64]], NDArray[np.float64]]
"""(number (B,) of each sample's prompt or group, rewards (B,)) -> advantages (B,); 0 where a reward is not
finite.
"""


class PromptAdvantages:
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


def group_advantages(groups: Sequence[int], rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rewards minus the mean of their group, in units of the deviation of all such differences.

    GRPO (Shao et al. 2024, section 4.1.2) divides by the deviation of each group. With one deviation for all
    groups, a group whose samples are all alike is not amplified.

    Args:
        groups: Number (B,) of each sample's group.
        rewards: Rewards (B,).

    Returns:
        Advantages (B,), clipped to ±5; 0 for a reward that is not finite.
    """
    members, finite = np.asarray(groups), np.isfinite(rewards)
    difference = np.zeros(len(rewards))
    for group in np.unique(members[finite]):
        rows = finite & (members == group)
        difference[rows] = rewards[rows] - rewards[rows].mean()
    deviation = difference[finite].std() if finite.any() else 0.0
    return (difference / (deviation + 1e-6)).clip(-ADVANTAGE_CLIP, ADVANTAGE_CLIP)
