"""Classical image analysis of world images: which objects they show, from the pixels alone.

It has no learned weights. A plane fitted to the border gives the background, so a gradient is no object; a
pixel's contrast is its distance from all colours that a shadow or a pool of light can give the background, so
a shadow is no object. Connected regions of contrast are objects. Each shape's outline is fitted to a region,
and the best fit gives shape, centre and radius; the nearest named colour gives the colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rewards.world.render import cast_colour, lit_background, signed_distance
from rewards.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    OFFSET_PX,
    POSITIONS,
    SHAPES,
    SIZE_PX,
    SIZES,
    Item,
    Style,
)

Array = NDArray[np.float64]

MIN_AREA_PX = 40
"""Smaller regions are noise."""

FLOOR = 8.0
"""Least contrast of an object in L*a*b* units."""

_CASTS = np.linspace(0.0, 0.66, 7)
"""Shares of a cast that are tried as the colour of the background; the greatest is a little above any."""


@dataclass(frozen=True)
class DetectedObject:
    """An object in an image: names, and its centre and radius in pixels."""

    shape: str
    colour: str
    size: str
    position: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Detection:
    """Content of an image: the name of its background, and its objects with the largest first."""

    background: str
    objects: tuple[DetectedObject, ...]


@dataclass(frozen=True)
class View:
    """An image with its background taken apart, which the oracle and the aesthetic rule both read."""

    lab: Array
    """The blurred image in L*a*b*, (64, 64, 3)."""
    rgb: Array
    """The blurred image, in [0, 1], (64, 64, 3)."""
    ground: Array
    """RGB of the background without casts, (64, 64, 3)."""
    background: str
    """Name of the background."""
    contrast: Array
    """Distance of each pixel from the background in any cast, in L*a*b* units, (64, 64)."""

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> View:
        """Analyse one image.

        Args:
            image: RGB, uint8 of shape (64, 64, 3).

        Raises:
            ValueError: If the image has another shape.
        """
        if image.shape != (SIZE_PX, SIZE_PX, 3):
            raise ValueError(
                f"expected an RGB image of shape ({SIZE_PX}, {SIZE_PX}, 3), got {image.shape}: "
                "resize it first"
            )
        # A little blur: noise of single pixels must not break regions apart.
        rgb = ndimage.gaussian_filter(image / 255.0, sigma=(0.6, 0.6, 0.0))
        ground = _fit_ground(rgb)
        name = _name_background(ground)
        away = cast_colour(name) - ground
        lab = _rgb_to_lab(rgb)
        contrast = np.full(lab.shape[:2], np.inf)
        for share in _CASTS:
            shaded = _rgb_to_lab(np.clip(ground + share * away, 0.0, 1.0))
            contrast = np.minimum(contrast, np.linalg.norm(lab - shaded, axis=-1))
        return cls(lab, rgb, ground, name, contrast)


def detect_objects(image: NDArray[np.uint8]) -> Detection:
    """Analyse one image, RGB, uint8 of shape (64, 64, 3); raise `ValueError` for another shape."""
    view = View.of(image)
    regions = sorted(_regions(view.contrast), key=lambda mask: -int(mask.sum()))
    return Detection(view.background, tuple(_describe(mask, view) for mask in regions))


def _fit_ground(rgb: Array) -> Array:
    """Fit a plane to the colours of the border, and return it for all pixels, (64, 64, 3).

    Objects and shadows touch the border at most in places; the fit leaves out the pixels that are furthest
    from it, and is repeated.
    """
    rows, columns = np.mgrid[0:SIZE_PX, 0:SIZE_PX]
    border = np.minimum.reduce([rows, columns, SIZE_PX - 1 - rows, SIZE_PX - 1 - columns]) < 4
    # Only gradients along the light's direction exist, so one slope is fitted.
    along = (rows + columns + 1.0) / (2 * SIZE_PX)
    design, values = np.stack([np.ones(border.sum()), along[border]], axis=1), rgb[border]
    keep = np.linalg.norm(values - np.median(values, axis=0), axis=-1) < 0.35
    for share in (0.85, 0.7, 0.7, 0.7):
        if keep.sum() < 40:
            break
        plane = np.linalg.lstsq(design[keep], values[keep], rcond=None)[0]
        error = np.linalg.norm(values - design @ plane, axis=-1)
        keep = error <= max(float(np.quantile(error, share)), 0.01)
    plane = np.linalg.lstsq(design[keep], values[keep], rcond=None)[0]
    ground: Array = np.clip(plane[0] + along[..., None] * plane[1], 0.0, 1.0)
    return ground


def _name_background(ground: Array) -> str:
    """Name of the background with the nearest colours at both ends of its gradient."""
    names, ends = _background_table()
    both = _rgb_to_lab(np.stack([ground[0, 0], ground[-1, -1]]))
    return names[int(np.argmin(np.linalg.norm(ends - both, axis=-1).sum(axis=-1)))]


def _rgb_to_lab(rgb: Array) -> Array:
    """Convert sRGB to CIE L*a*b*, in which Euclidean distance is roughly perceived difference.

    Args:
        rgb: Values in [0, 1], shape (..., 3).

    Returns:
        L*, a*, b* with the white point D65, shape (..., 3).

    Source: IEC 61966-2-1 (sRGB) and CIE 15 (L*a*b*).
    """
    # The inverse of sRGB's gamma curve. np.where computes both branches, hence the maximum.
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((np.maximum(rgb, 0.0) + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    # L*a*b* is a cube root, with a straight line near black where its slope would be infinite.
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lab: Array = np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )
    return lab


def _regions(contrast: Array) -> list[NDArray[np.bool_]]:
    """Masks of the objects. Strong objects are found first; then they are blanked, to find weaker ones.

    Args:
        contrast: Distance of each pixel from the background in L*a*b* units, (H, W).
    """
    left, masks = contrast.copy(), []
    # The least contrast of an object: well above the noise, whose level is the median.
    floor = max(FLOOR, 3.0 * float(np.median(contrast)))
    for _ in range(3):  # rounds: enough for two objects and a stray region
        strength = float(np.percentile(left, 99.5))  # not the maximum, which may be one noisy pixel
        if strength < floor:
            break
        labels, count = ndimage.label(left > max(floor * 0.8, 0.4 * strength))
        if count == 0:
            break
        areas = ndimage.sum_labels(np.ones_like(left), labels, np.arange(1, count + 1))
        for label in np.flatnonzero(areas >= MIN_AREA_PX) + 1:
            mask = labels == label
            # Cut each object at half of its own contrast, where the edge of a sharp one would be.
            core = float(np.percentile(contrast[mask], 70))
            refined = _largest(mask & (contrast > 0.45 * core))
            if refined.sum() >= MIN_AREA_PX:
                masks.append(refined)
        # Blank the surroundings too, or the soft edge of a strong object would be found as a weak one.
        left[ndimage.binary_dilation(labels > 0, iterations=4)] = 0.0
    return masks


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask. Diagonal neighbours count as connected, which keeps thin tips."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count <= 1:
        return mask
    areas = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
    largest: NDArray[np.bool_] = labels == int(np.argmax(areas)) + 1
    return largest


def _describe(mask: NDArray[np.bool_], view: View) -> DetectedObject:
    # Pixels at the edge mix object and background, so they do not count for the colour.
    inner = ndimage.binary_erosion(mask)
    core = inner if inner.sum() >= 12 else mask
    colour = _nearest(view.lab[core], _colour_table())
    fit = _fit_outline(mask, view.contrast)
    # The size is chosen by ratio, not by difference: sizes are about a factor 1.36 apart.
    size = min(SIZES, key=lambda name: abs(np.log(fit.radius / SIZES[name])))
    return DetectedObject(fit.shape, colour, size, _position(fit.x, fit.y, size), fit.x, fit.y, fit.radius)


def _position(x: float, y: float, size: str) -> str:
    step = OFFSET_PX[size]  # positions are further out for small objects
    column, row = (int(np.clip(np.rint((v - SIZE_PX / 2) / step), -1, 1)) for v in (x, y))
    return next(name for name, cell in POSITIONS.items() if cell == (column, row))


@dataclass(frozen=True)
class _Outline:
    """A shape's outline in an image, and its error as a cover of the region."""

    shape: str
    x: float
    y: float
    radius: float
    error: float = np.inf


_PIXELS = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float64) + 0.5
_LEAST_RADIUS_PX = 10.0
"""A little below the radius of the smallest object."""

_FIT_EDGES_PX = (2.4, 5.0)
"""Edge widths of fitted outlines: that of a render after the analysis' blur, and of a soft picture."""


def _fit_outline(mask: NDArray[np.bool_], contrast: Array) -> _Outline:
    """Fit each shape's outline to a region, and return the best.

    Args:
        mask: The region, (64, 64).
        contrast: Distance of each pixel from the background, (64, 64).
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = (
        slice(max(0, int(rows[0]) - 3), int(rows[-1]) + 4),
        slice(max(0, int(columns[0]) - 3), int(columns[-1]) + 4),
    )
    # A cover of 1 inside and 0 outside, soft at the edge. Shading varies the contrast inside an object, so a
    # pixel is compared with the contrast near it, not with the whole object's.
    near = ndimage.maximum_filter(np.where(mask, contrast, 0.0), size=5)
    ceiling = np.maximum(near, 0.6 * float(np.percentile(contrast[mask], 70)))
    share = np.where(ndimage.binary_dilation(mask, iterations=2), contrast / ceiling, 0.0)
    target = np.clip((share - 0.5) * 1.6 + 0.5, 0.0, 1.0)[window]
    y, x = _PIXELS[0][window], _PIXELS[1][window]
    area = float(target.sum())
    centre = float((target * x).sum() / area), float((target * y).sum() / area)

    def scored(outline: _Outline) -> _Outline:
        u, v = (x - outline.x) / outline.radius, (y - outline.y) / outline.radius
        table = _unit_distance(outline.shape)
        # Nearest entry of a fine table of distances: much faster than distances to every edge.
        at = [np.clip(np.rint((w + _REACH) * _FINE), 0, len(table) - 1).astype(np.intp) for w in (v, u)]
        distance = table[at[0], at[1]] * outline.radius
        covers = (np.clip(0.5 - distance / edge, 0.0, 1.0) for edge in _FIT_EDGES_PX)
        error = min(float(np.abs(cover - target).sum()) for cover in covers)
        # The core of a small star looks like a circle that is smaller than any. What is too small for its
        # shape is less likely.
        shrunk = max(0.0, float(np.log(_LEAST_RADIUS_PX / outline.radius)))
        return replace(outline, error=error * (1.0 + 3.0 * shrunk))

    fits = []
    for shape in SHAPES:
        share_of_square, offset = _moments(shape)
        radius = (area / share_of_square) ** 0.5
        fits.append(scored(_Outline(shape, centre[0], centre[1] - offset * radius, radius)))
    fits.sort(key=lambda fit: fit.error)
    return min((_refine(fit, scored) for fit in fits[:3]), key=lambda fit: fit.error)


def _refine(fit: _Outline, scored: Callable[[_Outline], _Outline]) -> _Outline:
    """Improve an outline by steps in x, y and radius that are halved when no step improves it."""
    step = 0.8
    while step > 0.15:
        moves = [
            replace(fit, x=fit.x + dx * step, y=fit.y + dy * step, radius=fit.radius + dr * step)
            for dx, dy, dr in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
        ]
        best = min(map(scored, moves), key=lambda move: move.error)
        if best.error < fit.error:
            fit = best
        else:
            step /= 2
    return fit


_REACH, _FINE = 1.6, 40.0
"""Half width of the table of unit distances in radii, and its entries a radius."""


@cache
def _unit_distance(shape: str) -> Array:
    """Signed distances to a shape of radius 1, on a grid from -`_REACH` to `_REACH`, in radii."""
    # The renderer's distances at radius 40 are sampled on its own 64 pixels, so the grid is put together from
    # the parts around the shape's centre that shifted scenes show.
    side = int(2 * _REACH * _FINE) + 1
    table = np.zeros((side, side))
    for top in range(0, side, SIZE_PX):
        for left in range(0, side, SIZE_PX):
            centre = _REACH * _FINE + 0.5
            part = signed_distance(Item(shape, "red", "medium", centre - left, centre - top, _FINE))
            table[top : top + SIZE_PX, left : left + SIZE_PX] = part[: side - top, : side - left]
    return table / _FINE


@cache
def _moments(shape: str) -> tuple[float, float]:
    """Area of a shape of radius 1, and its centre of mass below its centre."""
    inside = _unit_distance(shape) < 0
    rows = np.arange(len(inside)) / _FINE - _REACH
    return float(inside.sum()) / _FINE**2, float((inside.sum(axis=1) * rows).sum() / inside.sum())


_LEVELS = [Style(level, 0.0, 0.0, 0.0) for level in (0.0, 0.25, 0.5, 0.75, 1.0)]
"""Saturations at which named colours are tabulated."""


@cache
def _colour_table() -> tuple[list[str], Array]:
    """Names and L*a*b* values of every colour at each saturation."""
    names = [name for name in COLOURS for _ in _LEVELS]
    return names, _rgb_to_lab(
        np.array([style.shown_colour(name) for name in COLOURS for style in _LEVELS], dtype=float)
    )


@cache
def _background_table() -> tuple[list[str], Array]:
    """Names of every background, and L*a*b* values of both ends of its gradient, (N, 2, 3)."""
    levels = [Style(0.0, 0.0, 0.0, level) for level in (0.0, 0.25, 0.5, 0.75, 1.0)]
    names = [name for name in BACKGROUNDS for _ in levels]
    canvases = [lit_background(*style.shown_background(n)) for n in BACKGROUNDS for style in levels]
    return names, _rgb_to_lab(np.array([[c[0, 0], c[-1, -1]] for c in canvases], dtype=float))


def _nearest(pixels: Array, table: tuple[list[str], Array]) -> str:
    names, values = table
    # Hue decides: light and shade change an object's lightness, and less its hue.
    median = np.median(pixels, axis=0)
    scale = np.array([0.35, 1.0, 1.0])
    return names[int(np.argmin(np.linalg.norm((values - median) * scale, axis=-1)))]
