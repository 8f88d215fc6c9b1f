"""The world's procedural aesthetic: a rule written by hand that scores pixels alone, from 1 to 10.

It likes strong colour, crisp edges, freedom from noise, a glow, and a subject that is well placed and of a
fair size; clipped pixels cost, so that crushed blacks and burnt-out colours do not win. It knows nothing of
prompts.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rewards.world.vision import to_lab

WEIGHTS = (0.32, 0.22, 0.12, 0.16, 0.18)
"""Weights of colour, sharpness, cleanness, glow and composition; they add up to 1."""

CLIP_COST = 4.0
"""Points lost by a picture all of whose pixels are clipped."""

GLOW_RISE = 1.65
"""How much brighter a glow is 1.5 pixels outside the outline than 4 pixels outside it."""


@dataclass(frozen=True)
class Parts:
    """The parts of the rule, each in [0, 1] with 1 the best, and the share of clipped pixels."""

    colour: float
    sharpness: float
    cleanness: float
    glow: float
    composition: float
    clipped: float

    @property
    def score(self) -> float:
        """The aesthetic, from 1 to 10 before the cost of clipping, never below 1."""
        good = float(np.dot(WEIGHTS, astuple(self)[:5]))
        return max(1.0, 1.0 + 9.0 * good - CLIP_COST * self.clipped)


def judge(image: NDArray[np.uint8]) -> Parts:
    """Measure one picture, uint8 RGB (64, 64, 3)."""
    raw = image / 255.0
    lab = to_lab(ndimage.gaussian_filter(raw, sigma=(0.7, 0.7, 0.0)))
    edges = (lab[:3], lab[-3:], lab[:, :3], lab[:, -3:])
    ground = np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)
    contrast = np.linalg.norm(lab - ground, axis=-1)
    strength = max(float(np.percentile(contrast, 99)), 1.0)
    salience = np.clip(contrast / strength, 0.0, 1.0)
    clipped = (raw.max(axis=-1) >= 0.992) | (raw.max(axis=-1) <= 0.012)
    return Parts(
        colour=_colour(lab, salience),
        sharpness=_sharpness(salience),
        cleanness=_cleanness(raw),
        glow=_glow(salience, strength),
        composition=_composition(salience, strength),
        clipped=float(clipped.mean()),
    )


def _ramp(value: float, zero: float, one: float) -> float:
    return float(np.clip((value - zero) / (one - zero), 0.0, 1.0))


def _colour(lab: NDArray[np.float64], salience: NDArray[np.float64]) -> float:
    """Mean chroma of the subject."""
    chroma, weight = np.hypot(lab[..., 1], lab[..., 2]), salience**2
    return _ramp(float((chroma * weight).sum() / max(weight.sum(), 1e-6)), 20.0, 85.0)


def _sharpness(salience: NDArray[np.float64]) -> float:
    """How much of the fall from subject to ground happens within 2 pixels of the outline.

    Ring means, not gradients: noise averages out. A glow falls slowly outside, so what is left of it 3 to 5
    pixels out tells how bright it is 1 to 2 pixels out, and the fall is to that.
    """
    subject = salience > 0.5
    inside, outside = ndimage.distance_transform_edt(subject), ndimage.distance_transform_edt(~subject)
    rings = ((inside >= 1) & (inside <= 2), (outside >= 1) & (outside <= 2), (outside > 3) & (outside <= 5))
    if not all(ring.any() for ring in rings):
        return 0.0
    within, just_out, further_out = (float(salience[ring].mean()) for ring in rings)
    glow = GLOW_RISE * further_out
    return _ramp((within - just_out) / max(within - glow, 1e-6), 0.5, 0.95)


def _cleanness(raw: NDArray[np.float64]) -> float:
    """Absence of pixel noise: the median absolute second difference, which edges hardly touch."""
    fine = raw - ndimage.median_filter(raw, size=(3, 3, 1))
    return 1.0 - _ramp(float(np.abs(fine).mean()), 0.004, 0.04)


def _glow(salience: NDArray[np.float64], strength: float) -> float:
    """Light that reaches beyond the subject: salience 3 to 8 pixels outside it, above the far ground's."""
    subject = salience > 0.5
    distance = ndimage.distance_transform_edt(~subject)
    band, far = (distance >= 3) & (distance <= 8), distance > 14
    if strength < 10.0 or not band.any() or not far.any():
        return 0.0
    return _ramp(float(salience[band].mean() - salience[far].mean()), 0.0, 0.16)


def _composition(salience: NDArray[np.float64], strength: float) -> float:
    """A subject of fair size that keeps clear of the border; nothing to see is no composition."""
    if strength < 10.0:
        return 0.0
    subject = salience > 0.5
    area = float(subject.mean())
    fair = _ramp(area, 0.01, 0.06) * (1.0 - _ramp(area, 0.45, 0.75))
    rim = np.ones_like(subject)
    rim[2:-2, 2:-2] = False
    return fair * (1.0 - _ramp(float(subject[rim].mean()), 0.0, 0.12))
