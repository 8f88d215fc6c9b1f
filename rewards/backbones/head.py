"""The small affine head that LAION's second aesthetic predictor introduced and ImageReward reuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

WIDTHS = (1024, 128, 64, 16)


class Wide(nn.Module):
    """A module that is never below float32, whatever the rest of a reward is in.

    Half precision would leave steps of 1/32 in scores of about 5, and pictures would tie.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize:
                return tensor.to(moved.device)
            return moved

        super()._apply(wide, recurse)  # type: ignore[no-untyped-call]
        return self


class WideLinear(Wide, nn.Linear):
    """One linear layer."""


class WideDict(Wide, nn.ModuleDict):
    """Modules by name."""


class ScoreHead(Wide):
    """Linear layers ``width -> 1024 -> 128 -> 64 -> 16 -> 1`` with dropout and, as published, no activations.

    The keys are those of the published files: ``layers.{0,2,4,6,7}.{weight,bias}``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, third, last = WIDTHS
        self.layers = nn.Sequential(
            nn.Linear(width, first),
            nn.Dropout(0.2),
            nn.Linear(first, second),
            nn.Dropout(0.2),
            nn.Linear(second, third),
            nn.Dropout(0.1),
            nn.Linear(third, last),
            nn.Linear(last, 1),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """``embedding`` (B, width) to scores (B,)."""
        score: Tensor = self.layers(embedding.to(next(self.parameters()).dtype))
        return score[:, 0]
