"""A reward with what it is checked on, and how scores are compared. B images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from rewards.base import Reward
from rewards.verification.samples import tensors

SPREAD_SHARE = 1e-4
"""How far two ways to one score may differ, of the spread of scores; plus `ROUNDING` of the score."""
ROUNDING = 4e-6
HALF_SHARE, HALF_ROUNDING = 0.25, 2**-7
"""The same for bfloat16, which has 8 digits of mantissa; it must still tell pictures apart."""


@dataclass(frozen=True)
class Case:
    """A reward and what it is checked on: B >= 2 pictures of one size, and as many prompts, all different."""

    reward: Reward
    images: Sequence[Image]
    prompts: Sequence[str]

    @property
    def device(self) -> torch.device:
        """Where the reward is."""
        return next((p.device for p in self.reward.parameters()), torch.device("cpu"))

    @cached_property
    def tensor(self) -> Tensor:
        """The images (B, 3, H, W)."""
        return tensors(self.images)

    @cached_property
    def scores(self) -> Tensor:
        """Scores (B,) of the images for their prompts."""
        return self.grid.diagonal()

    @cached_property
    def grid(self) -> Tensor:
        """Scores (B, B) of every image, by rows, for every prompt."""
        images, prompts = zip(*product(self.images, self.prompts), strict=True)
        return self.score(images, prompts).view(len(self.images), len(self.prompts))

    @cached_property
    def spread(self) -> float:
        """How much the scores of `grid` differ; those that are NaN are left out."""
        known = self.grid[self.grid.isfinite()]
        return (known.max() - known.min()).item() if len(known) else 0.0

    @cached_property
    def exact(self) -> Reward:
        """A copy of the reward in float64 that leaves out the rounding of pixels to 8 bits."""
        copy = deepcopy(self.reward).to(torch.float64)
        copy.profile = replace(copy.profile, emulate_pil=False)
        return copy

    def score(self, images: Any, prompts: Sequence[str] | None) -> Tensor:
        """Scores (B,) without gradients, on the CPU."""
        with torch.no_grad():
            return self.reward.score(images, prompts).cpu()

    def near(self, found: Tensor, expected: Tensor, what: str) -> None:
        """Raises AssertionError, which says ``what`` differs, unless both agree but for rounding."""
        self._within(found, expected, SPREAD_SHARE, ROUNDING, what)

    def nearly(self, found: Tensor, expected: Tensor, what: str) -> None:
        """The same but for half precision's rounding."""
        self._within(found, expected, HALF_SHARE, HALF_ROUNDING, what)

    def _within(self, found: Tensor, expected: Tensor, share: float, rounding: float, what: str) -> None:
        found, expected = found.detach().cpu(), expected.detach().cpu()
        allowed = share * self.spread + rounding * expected.nan_to_num().abs().max().item()
        same = torch.allclose(found, expected, rtol=0, atol=allowed, equal_nan=True)
        hold(same, f"{what}: {show(found)} instead of {show(expected)}, more than {allowed:.2g} apart")


def hold(truth: Any, text: str) -> None:
    """Raises AssertionError with the text unless it is true; unlike `assert`, also under ``python -O``."""
    if not truth:
        raise AssertionError(text)


def equal(found: Tensor, expected: Tensor) -> bool:
    """Bit by bit, and NaN where NaN is expected."""
    return torch.equal(found.nan_to_num(nan=math.pi), expected.nan_to_num(nan=math.pi))


def show(values: Tensor) -> str:
    """Values in a message."""
    return f"[{', '.join(f'{value:.6g}' for value in values.detach().flatten().tolist())}]"
