"""The small affine head that LAION's second aesthetic predictor introduced and ImageReward reuses."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (1024, 128, 64, 16)


class ScoreHead(nn.Module):
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
        score: Tensor = self.layers(embedding)
        return score[:, 0]
