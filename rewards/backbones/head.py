"""Score heads, and modules that stay in float32 when the rest of a reward is in half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

WIDTHS = (1024, 128, 64, 16)
"""Widths of the hidden layers of `ScoreHead`."""


class AtLeastFloat32(nn.Module):
    """A module that is never converted below float32.

    In half precision scores of about 5 would have steps of 1/32, and images would tie.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Every conversion of a module, such as .to() and .half(), goes through _apply.
        def limited(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize:
                return tensor.to(moved.device)
            return moved

        super()._apply(limited, recurse)  # type: ignore[no-untyped-call]
        return self


class ScoreHead(AtLeastFloat32):
    """Linear layers ``width -> 1024 -> 128 -> 64 -> 16 -> 1`` with dropout and without activations.

    The head of LAION's second aesthetic predictor, which ImageReward reuses. Without activations it is an
    affine map in evaluation; the layers are kept apart so that the published keys load unchanged
    (``layers.{0,2,4,6,7}.{weight,bias}``).
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
        """Return scores (B,) of embeddings (B, width)."""
        score: Tensor = self.layers(embedding.to(next(self.parameters()).dtype))
        return score[:, 0]
