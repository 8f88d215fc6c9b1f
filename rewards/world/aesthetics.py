"""The world's aesthetic rule: a score from 1 to 10 of an image's pixels, without prompt or learned weights.

Strong colour, crisp edges, little noise, a glow, and a subject of moderate size away from the border raise
the score. Clipped pixels lower it, so that crushed blacks and burnt-out colours do not win.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rewards.world.vision import background_contrast

WEIGHTS = (0.32, 0.22, 0.12, 0.16, 0.18)
"""Weights of colour, sharpness, cleanness, glow and composition. Their sum is 1."""

CLIP_COST = 4.0
"""Points that an image loses if all its pixels are clipped."""

GLOW_RISE = 1.65
"""Ratio of a glow's brightness 1.5 pixels outside the outline to that 4 pixels outside: exp(2.5 / 5)."""


@dataclass(frozen=True)
class AestheticParts:
    """Parts of the aesthetic rule, in [0, 1] with 1 the best, and the share of clipped pixels."""

    colour: float
    sharpness: float
    cleanness: float
    glow: float
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
        lab, _, contrast = background_contrast(raw)
        # Salience: contrast with the background, from 0 to 1 at the subject. At least one unit of contrast,
        # so that the noise of an empty image is not scaled up to a subject.
        strength = max(float(np.percentile(contrast, 99)), 1.0)
        salience = np.clip(contrast / strength, 0.0, 1.0)
        clipped = (raw.max(axis=-1) >= 0.992) | (raw.max(axis=-1) <= 0.012)
        return cls(
            colour=_colour(lab, salience),
            sharpness=_sharpness(salience),
            cleanness=_cleanness(raw),
            glow=_glow(salience, strength),
            composition=_composition(salience, strength),
            clipped=float(clipped.mean()),
        )


def _ramp(value: float, zero: float, one: float) -> float:
    """Map ``zero`` to 0 and ``one`` to 1, linearly and clipped."""
    return float(np.clip((value - zero) / (one - zero), 0.0, 1.0))


def _colour(lab: NDArray[np.float64], salience: NDArray[np.float64]) -> float:
    """Mean chroma of the subject; the squared salience leaves out background and glow."""
    chroma, weight = np.hypot(lab[..., 1], lab[..., 2]), salience**2
    return _ramp(float((chroma * weight).sum() / max(weight.sum(), 1e-6)), 20.0, 85.0)


def _sharpness(salience: NDArray[np.float64]) -> float:
    """Share of the fall of salience, from subject to background, within 2 pixels of the outline."""
    # Means over rings, not gradients: noise averages out.
    subject = salience > 0.5
    inside, outside = ndimage.distance_transform_edt(subject), ndimage.distance_transform_edt(~subject)
    rings = ((inside >= 1) & (inside <= 2), (outside >= 1) & (outside <= 2), (outside > 3) & (outside <= 5))
    if not all(ring.any() for ring in rings):
        return 0.0
    within, just_out, further_out = (float(salience[ring].mean()) for ring in rings)
    # A glow is not a soft edge. Its brightness 3 to 5 pixels out gives its brightness 1 to 2 pixels out.
    glow = GLOW_RISE * further_out
    return _ramp((within - just_out) / max(within - glow, 1e-6), 0.5, 0.95)


def _cleanness(raw: NDArray[np.float64]) -> float:
    """Absence of pixel noise: the mean absolute difference to a 3 x 3 median, which keeps edges."""
    fine = raw - ndimage.median_filter(raw, size=(3, 3, 1))
    return 1.0 - _ramp(float(np.abs(fine).mean()), 0.004, 0.04)


def _glow(salience: NDArray[np.float64], strength: float) -> float:
    """Light around the subject: salience 3 to 8 pixels outside it, minus that of the far background."""
    subject = salience > 0.5
    distance = ndimage.distance_transform_edt(~subject)
    band, far = (distance >= 3) & (distance <= 8), distance > 14
    if strength < 10.0 or not band.any() or not far.any():
        return 0.0
    return _ramp(float(salience[band].mean() - salience[far].mean()), 0.0, 0.16)


def _composition(salience: NDArray[np.float64], strength: float) -> float:
    """A subject that covers 6 to 45 % of the image and does not touch the border; 0 without a subject."""
    if strength < 10.0:
        return 0.0
    subject = salience > 0.5
    area = float(subject.mean())
    fair = _ramp(area, 0.01, 0.06) * (1.0 - _ramp(area, 0.45, 0.75))
    rim = np.ones_like(subject)
    rim[2:-2, 2:-2] = False
    return fair * (1.0 - _ramp(float(subject[rim].mean()), 0.0, 0.12))
