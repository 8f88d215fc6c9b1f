"""A reward with its test images and prompts, and how its scores are compared. Shapes: B images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from rewards.base import Reward

SPREAD_SHARE = 1e-4
"""Largest difference between two ways to compute a score, as a share of the scores' spread."""
_ROUNDING = 4e-6
"""Allowed in addition, as a share of the score: about 30 units in the last place of float32."""
_HALF_SHARE, _HALF_ROUNDING = 0.25, 2**-7
"""The same for bfloat16 with its 8 digits of mantissa; scores must still tell images apart."""


@dataclass(frozen=True)
class Case:
    """A reward and what it is checked on: B >= 2 images of one size, and B different prompts."""

    reward: Reward
    images: Sequence[Image]
    prompts: Sequence[str]

    @property
    def device(self) -> torch.device:
        """Device of the reward."""
        return next((p.device for p in self.reward.parameters()), torch.device("cpu"))

    @cached_property
    def tensor(self) -> Tensor:
        """The images (B, 3, H, W) in [0, 1]."""
        # Not through `rewards.preprocess`, which the reward itself uses on images.
        arrays = np.stack([np.asarray(image) for image in self.images])
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous().float() / 255

    @cached_property
    def scores(self) -> Tensor:
        """Scores (B,) of each image for its prompt."""
        return self.grid.diagonal()

    @cached_property
    def grid(self) -> Tensor:
        """Scores (B, B) of every image (rows) for every prompt (columns)."""
        images, prompts = zip(*product(self.images, self.prompts), strict=True)
        return self.score(images, prompts).view(len(self.images), len(self.prompts))

    @cached_property
    def spread(self) -> float:
        """Range of the scores in `grid`, without NaN; the scale on which differences are judged."""
        finite = self.grid[self.grid.isfinite()]
        return (finite.max() - finite.min()).item() if len(finite) else 0.0

    @cached_property
    def exact(self) -> Reward:
        """A copy of the reward in float64 that does not round pixels to 8 bits."""
        copy = deepcopy(self.reward).to(torch.float64)
        copy.profile = replace(copy.profile, emulate_pil=False)
        return copy

    @cached_property
    def half(self) -> Reward:
        """A copy of the reward in bfloat16."""
        return deepcopy(self.reward).to(torch.bfloat16)

    def score(self, images: Any, prompts: Sequence[str] | None) -> Tensor:
        """Return scores (B,) without gradients, on the CPU."""
        with torch.no_grad():
            return self.reward.score(images, prompts).cpu()

    def require_close(
        self,
        actual: Tensor,
        expected: Tensor,
        message: str,
        *,
        share: float = SPREAD_SHARE,
        step: float = 0.0,
    ) -> None:
        """Require equal scores except for rounding in float32. NaN equals only NaN.

        Args:
            actual: Scores.
            expected: The same scores, computed in another way.
            message: Beginning of the error.
            share: Allowed difference, as a share of the scores' spread.
            step: Allowed in addition: the distance of neighbouring scores in a coarser precision.

        Raises:
            AssertionError: ``message`` and the values.
        """
        self._require_within(actual, expected, share, _ROUNDING, message, step)

    def require_roughly_close(self, actual: Tensor, expected: Tensor, message: str) -> None:
        """Require equal scores except for rounding in bfloat16; raises as `require_close`."""
        self._require_within(actual, expected, _HALF_SHARE, _HALF_ROUNDING, message)

    def _require_within(
        self,
        actual: Tensor,
        expected: Tensor,
        share: float,
        rounding: float,
        message: str,
        step: float = 0.0,
    ) -> None:
        actual, expected = actual.detach().cpu(), expected.detach().cpu()
        allowed = share * self.spread + rounding * expected.nan_to_num().abs().max().item() + step
        close = torch.allclose(actual, expected, rtol=0, atol=allowed, equal_nan=True)
        values = f"got {format_values(actual)}, expected {format_values(expected)} within {allowed:.2g}"
        self.require(close, f"{message}: {values}")

    def require_valid(self, scores: Tensor, what: str) -> None:
        """Require finite scores, or NaN of a reward without gradients: it cannot judge the prompt."""
        valid = scores.isfinite() | (scores.isnan() & (not self.reward.info.differentiable))
        self.require(valid.all(), f"{what} are {format_values(scores)}, expected finite ones")

    def require_value_error(self, images: Any, prompts: Any, what: str) -> None:
        """Require a ValueError of one line that says what is expected."""
        try:
            self.score(images, prompts)
        except ValueError as error:
            text = str(error)
            helpful = "expected" in text and "\n" not in text
            self.require(helpful, f"the error for {what} does not say what is expected in one line: {text}")
        except Exception as error:
            kind = type(error).__name__
            raise AssertionError(f"{what}: raises {kind}, expected a ValueError: {error}") from error
        else:
            raise AssertionError(f"{what}: scored, expected a ValueError")

    @staticmethod
    def bfloat16_step(scores: Tensor) -> float:
        """Return the distance of bfloat16 numbers at the largest score; 0 if a score is not such a number."""
        scores = scores.nan_to_num()
        if not torch.equal(scores.bfloat16().float(), scores):
            return 0.0
        # bfloat16 keeps 7 of the 52 bits after the point.
        return math.ulp(scores.abs().max().item()) * 2.0 ** (52 - 7)

    @staticmethod
    def bitwise_equal(actual: Tensor, expected: Tensor) -> bool:
        """Return whether all bits are equal, with NaN in the same places."""
        return torch.equal(actual.nan_to_num(nan=math.pi), expected.nan_to_num(nan=math.pi))

    @staticmethod
    def require(condition: Any, message: str) -> None:
        """Raise AssertionError with the message unless the condition holds.

        Unlike an `assert` statement it also works under ``python -O``.
        """
        if not condition:
            raise AssertionError(message)


def format_values(values: Tensor) -> str:
    """Return values as text for a message."""
    return f"[{', '.join(f'{value:.6g}' for value in values.detach().flatten().tolist())}]"
