"""Rewards that read pixels only, to tune an encoder towards a look: how colourful and how dark images are.

They need no weights and ignore the prompt. They do not measure quality: the most colourful image is a garish
one and the darkest is black, so use them in a mix with other rewards. Shapes: B images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.base import Reward

_LEVELS = 255
"""Value of a full channel in the formula of `Colourfulness`."""

_MEAN_WEIGHT = 0.3
"""Weight of the mean colour beside the spread of colours, fitted to people's ratings by the authors."""

_LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in the luma of Rec. 709 (ITU-R BT.709)."""


class Colourfulness(Reward):
    """Spread of an image's colours and their mean distance from grey; 0 for an image without colour.

    Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images", metric M(3): with rg = R - G and
    yb = (R + G) / 2 - B in 0..255, it is sqrt(var rg + var yb) + 0.3 sqrt((mean rg)^2 + (mean yb)^2) over the
    pixels of one image.
    """

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        red, green, blue = (_LEVELS * pixels).unbind(dim=1)  # (B, H, W)
        opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1)  # (B, 2, H, W)
        # All pixels of the image are measured, not a sample of them, so the variance has no correction.
        variances = opponents.var(dim=(2, 3), correction=0)  # (B, 2)
        means = opponents.mean(dim=(2, 3))
        return _root(variances.sum(dim=1)) + _MEAN_WEIGHT * _root(means.square().sum(dim=1))


class Darkness(Reward):
    """100 minus the mean luma in percent: 0 for a white image, 100 for a black one.

    This project's own definition. Luma is the sum of the stored, gamma-encoded values with the weights of
    Rec. 709; these values are closer to perceived lightness than linear light is.
    """

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        means = pixels.mean(dim=(2, 3))  # (B, 3)
        return 100 - 100 * (means * means.new_tensor(_LUMA)).sum(dim=1)


def _root(squares: Tensor) -> Tensor:
    """Return the square root of ``squares`` (B,), with the gradient 0 where it is 0."""
    # The slope of the root is infinite at 0, and times the gradient 0 of the variance of a flat image it
    # would be NaN. There the root is taken of the constant 1 and masked, which gives the score 0 and the
    # gradient 0. It is a subgradient, because a spread is smallest at 0.
    positive = squares > 0
    return torch.where(positive, squares, 1).sqrt() * positive
