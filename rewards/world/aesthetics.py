"""The world's aesthetic rule: a score from 1 to 10 of an image's pixels, without prompt or learned weights.

Vivid colour, objects lit from the top left, shadows or pools of light beside them, a background with a
gradient of light, and a subject of moderate size away from the border raise the score. Clipped pixels lower
it, so that crushed blacks and burnt-out colours do not win.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rewards.world.render import CAST_LIGHT, CAST_PX, CAST_SHADOW, cast_colour
from rewards.world.scenes import GRADIENT, LIGHT, LUMA, SIZE_PX, is_light
from rewards.world.vision import FLOOR, View

WEIGHTS = (0.28, 0.24, 0.22, 0.18, 0.08)
"""Weights of colour, shading, depth, backdrop and composition. Their sum is 1."""

CLIP_COST = 4.0
"""Points that an image loses if all its pixels are clipped."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AestheticParts:
    """Parts of the aesthetic rule, in [0, 1] with 1 the best, and the share of clipped pixels."""

    colour: float
    shading: float
    depth: float
    backdrop: float
    composition: float
    clipped: float

    @property
    def score(self) -> float:
        """Score in [1, 10]."""
        good = float(np.dot(WEIGHTS, astuple(self)[:5]))
        return max(1.0, 1.0 + 9.0 * good - CLIP_COST * self.clipped)

    @classmethod
    def measure(cls, image: NDArray[np.uint8]) -> Self:
        """Measure the aesthetic rule on one image, RGB, uint8 of shape (64, 64, 3)."""
        raw = image / 255.0
        view = View.of(image)
        strength = float(np.percentile(view.contrast, 98))
        # Without an object there is nothing to light: only the background counts.
        subject = view.contrast > 0.45 * max(strength, FLOOR)
        empty = strength < FLOOR
        clipped = (raw.max(axis=-1) >= 0.992) | (raw.max(axis=-1) <= 0.012)
        return cls(
            colour=0.0 if empty else _colour(view.lab[subject]),
            shading=0.0 if empty else _shading(view.lab, subject),
            depth=0.0 if empty else _depth(view, subject),
            backdrop=_backdrop(view),
            composition=0.0 if empty else _composition(subject),
            clipped=float(clipped.mean()),
        )


def _ramp(value: float, zero: float, one: float) -> float:
    """Map ``zero`` to 0 and ``one`` to 1, linearly and clipped."""
    return float(np.clip((value - zero) / (one - zero), 0.0, 1.0))


def _colour(subject: Array) -> float:
    """Mean chroma of the subject's pixels (N, 3) in L*a*b*."""
    return _ramp(float(np.hypot(subject[:, 1], subject[:, 2]).mean()), 24.0, 80.0)


def _shading(lab: Array, subject: NDArray[np.bool_]) -> float:
    """Fall of lightness from the top left of each object to its bottom right, weighted by area."""
    labels, count = ndimage.label(subject)
    total = falls = 0.0
    for label in range(1, count + 1):
        inner = labels == label
        # The edge mixes object and background, which differs in lightness.
        eroded = ndimage.binary_erosion(inner, iterations=2)
        inner = eroded if eroded.sum() >= 12 else inner
        area = float(inner.sum())
        if area < 12:
            continue
        rows, columns = np.nonzero(inner)
        along = -(rows + columns).astype(float)
        along = (along - along.mean()) / along.std()
        total += area
        falls += area * float((lab[inner][:, 0] * along).mean())  # L* per standard deviation
    return _ramp(falls / max(total, 1.0), 0.0, 8.5)


def _depth(view: View, subject: NDArray[np.bool_]) -> float:
    """Shadow, or light on a dark background, where light from the top left casts it."""
    outside = ~ndimage.binary_dilation(subject, iterations=2)
    behind, before = _moved(subject, CAST_PX + 1) & outside, _moved(subject, -CAST_PX - 1) & outside
    if not behind.any() or not before.any():
        return 0.0
    away = cast_colour(view.background) - view.ground
    share = ((view.rgb - view.ground) * away).sum(-1) / (away**2).sum(-1)
    share = np.clip(share, 0.0, 1.0)
    strongest = CAST_SHADOW if is_light(view.background) else CAST_LIGHT
    # A cast lies on one side; a general brightness around the subject is on both.
    return _ramp(float(share[behind].mean() - share[before].mean()), 0.0, 0.52 * strongest)


def _moved(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Move a mask to the right and down, or to the left and up if ``pixels`` is negative."""
    moved = np.zeros_like(mask)
    size = SIZE_PX - abs(pixels)
    to, start = max(pixels, 0), max(-pixels, 0)
    moved[to : to + size, to : to + size] = mask[start : start + size, start : start + size]
    return moved


def _backdrop(view: View) -> float:
    """Fall of the background's light from the top left corner to the bottom right."""
    near, far = float(view.ground[0, 0] @ LUMA), float(view.ground[-1, -1] @ LUMA)
    light = float(LIGHT @ LUMA)
    fall = 1.0 - far / max(near, 1e-6) if is_light(view.background) else (near - far) / (light - far)
    return _ramp(fall, 0.0, GRADIENT)


def _composition(subject: NDArray[np.bool_]) -> float:
    """A subject that covers 5 to 40 % of the image and does not touch the border."""
    area = float(subject.mean())
    fair = _ramp(area, 0.01, 0.05) * (1.0 - _ramp(area, 0.40, 0.70))
    rim = np.ones_like(subject)
    rim[2:-2, 2:-2] = False
    return fair * (1.0 - _ramp(float(subject[rim].mean()), 0.0, 0.12))
