"""Score of the reward."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rewards import Reward


class Warmth(Reward):
    """How much redder than blue an image is, -1 to 1."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return scores (B,) of ``pixels`` (B, 3, H, W), RGB in [0, 1]: the profile is "raw"."""
        return (pixels[:, 0] - pixels[:, 2]).mean(dim=(1, 2))
