"""Classical image analysis of world images: which objects they show, from the pixels alone.

It has no learned weights. The border gives the background; connected regions that differ from it are
objects; overlap with templates gives the shape, the nearest named colour the colour, and a region's extent
size and position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rewards.world.render import signed_distance
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

TEMPLATE_PX = 20
"""Side of the square that a region is resized to before it is compared with templates."""


@dataclass(frozen=True)
class DetectedObject:
    """An object in an image: names, and its centre and longest extent in pixels."""

    shape: str
    colour: str
    size: str
    position: str
    x: float
    y: float
    extent: float


@dataclass(frozen=True)
class Detection:
    """Content of an image: the name of its background, and its objects with the largest first."""

    background: str
    objects: tuple[DetectedObject, ...]


def detect_objects(image: NDArray[np.uint8]) -> Detection:
    """Analyse one image.

    Args:
        image: RGB, uint8 of shape (64, 64, 3).

    Raises:
        ValueError: If the image has another shape.
    """
    if image.shape != (SIZE_PX, SIZE_PX, 3):
        raise ValueError(
            f"expected an RGB image of shape ({SIZE_PX}, {SIZE_PX}, 3), got {image.shape}: resize it first"
        )
    lab, ground, contrast = background_contrast(image / 255.0)
    regions = sorted(_regions(contrast), key=lambda mask: -int(mask.sum()))
    objects = tuple(_describe(mask, contrast, lab) for mask in regions)
    return Detection(_nearest(ground, _background_table()), objects)


def background_contrast(rgb: Array) -> tuple[Array, Array, Array]:
    """Measure how much each pixel of an image differs from the background.

    Args:
        rgb: Values in [0, 1], shape (H, W, 3).

    Returns:
        The blurred image in L*a*b* (H, W, 3), the background's colour (3,), and the distance from it (H, W).
    """
    # A little blur: noise of single pixels must not break regions apart.
    lab = _rgb_to_lab(ndimage.gaussian_filter(rgb, sigma=(0.7, 0.7, 0.0)))
    # Objects touch the border at most in places, so the border's median is the background's colour.
    edges = (lab[:3], lab[-3:], lab[:, :3], lab[:, -3:])
    ground = np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)
    return lab, ground, np.linalg.norm(lab - ground, axis=-1)


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
    blank = np.zeros(contrast.shape, dtype=bool)
    # The least contrast of an object: well above the noise, whose level is the median, and at least 9 units,
    # for clean images have hardly any noise.
    floor = max(9.0, 3.0 * float(np.median(contrast)))
    for _ in range(4):  # rounds: enough for two objects and a stray region
        strength = float(np.percentile(left, 99.5))  # not the maximum, which may be one noisy pixel
        if strength < floor:
            break
        labels, count = ndimage.label(left > max(floor * 0.8, 0.45 * strength))
        if count == 0:
            break
        areas = ndimage.sum_labels(np.ones_like(left), labels, np.arange(1, count + 1))
        for label in np.flatnonzero(areas >= MIN_AREA_PX) + 1:
            mask = labels == label
            if _is_halo(mask, contrast, blank):
                continue
            # Cut each object at half of its own contrast. That puts the edge of a soft object where the edge
            # of a crisp one would be, and leaves a glow outside.
            core = float(np.percentile(contrast[mask], 80))
            refined = _largest(mask & (contrast > 0.5 * core))
            if refined.sum() >= MIN_AREA_PX:
                masks.append(refined)
        # Blank the surroundings too, or the soft edge of a strong object would be found as a weak one.
        blank |= ndimage.binary_dilation(labels > 0, iterations=4)
        left[blank] = 0.0
    return masks


def _is_halo(mask: NDArray[np.bool_], contrast: Array, blank: NDArray[np.bool_]) -> bool:
    """Return whether a region is the rest of a glow, which is strongest beside the blanked object.

    An object is strongest in its own inside.
    """
    near = mask & ndimage.binary_dilation(blank, iterations=2)
    return bool(near.any()) and float(contrast[near].max()) >= float(contrast[mask].max())


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask. Diagonal neighbours count as connected, which keeps thin tips."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count <= 1:
        return mask
    areas = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
    largest: NDArray[np.bool_] = labels == int(np.argmax(areas)) + 1
    return largest


def _describe(mask: NDArray[np.bool_], contrast: Array, lab: Array) -> DetectedObject:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    x, y, extent = (left + right) / 2, (top + bottom) / 2, float(max(right - left, bottom - top))
    # Pixels at the edge mix object and background, so they do not count for the colour.
    inner = ndimage.binary_erosion(mask)
    core = inner if inner.sum() >= 12 else mask
    colour = _nearest(np.median(lab[core], axis=0), _colour_table())
    strength = np.percentile(contrast[mask], 80)
    cover = np.clip(contrast / max(float(strength), 1e-6), 0.0, 1.0) * ndimage.binary_dilation(mask)
    shape = _shape(cover[top:bottom, left:right])
    # The size is chosen by ratio, not by difference: sizes are about a factor 1.4 apart.
    size = min(SIZES, key=lambda name: abs(np.log(extent / (_span(shape) * SIZES[name]))))
    return DetectedObject(shape, colour, size, _position(x, y, size), x, y, extent)


def _position(x: float, y: float, size: str) -> str:
    step = OFFSET_PX[size]  # positions are further out for small objects
    column, row = (int(np.clip(np.rint((v - SIZE_PX / 2) / step), -1, 1)) for v in (x, y))
    return next(name for name, cell in POSITIONS.items() if cell == (column, row))


def _shape(cover: Array) -> str:
    """Name the shape with the template of the greatest overlap (soft intersection over union)."""
    stretched = _stretch(cover)
    overlaps = {}
    for shape, templates in _templates().items():
        overlaps[shape] = max(
            float(np.minimum(stretched, t).sum() / np.maximum(stretched, t).sum()) for t in templates
        )
    return max(overlaps, key=lambda shape: overlaps[shape])


def _stretch(patch: Array) -> Array:
    """Resize a region to the templates' square, so that size and aspect ratio do not matter."""
    factors = TEMPLATE_PX / patch.shape[0], TEMPLATE_PX / patch.shape[1]
    stretched: Array = ndimage.zoom(patch, factors, order=1, grid_mode=True, mode="nearest")
    return stretched


@cache
def _templates() -> dict[str, list[Array]]:
    """Templates of each shape, crisp and soft, at two sizes, cut out and resized as regions are."""
    return {
        shape: [_template(shape, radius, edge) for radius in (10.0, 18.0) for edge in (1.5, 4.5)]
        for shape in SHAPES
    }


def _template(shape: str, radius: float, edge_px: float) -> Array:
    distance = signed_distance(Item(shape, "red", "medium", SIZE_PX / 2, SIZE_PX / 2, radius))
    cover = np.clip(0.5 - distance / edge_px, 0.0, 1.0).astype(np.float64)
    cover = ndimage.gaussian_filter(cover, 0.7)
    mask = cover > 0.5
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return _stretch(cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


@cache
def _span(shape: str) -> float:
    """Longest extent of a shape, in radii."""
    radius = 20.0
    inside = signed_distance(Item(shape, "red", "large", SIZE_PX / 2, SIZE_PX / 2, radius)) < 0
    return float(max(inside.any(axis=0).sum(), inside.any(axis=1).sum()) / radius)


_LEVELS = [Style(level, 1.0, 1.0, 0.0) for level in (0.0, 0.25, 0.5, 0.75, 1.0)]
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
    """Names and L*a*b* values of every background at each saturation."""
    names = [name for name in BACKGROUNDS for _ in _LEVELS]
    return names, _rgb_to_lab(
        np.array([style.shown_background(n) for n in BACKGROUNDS for style in _LEVELS], dtype=float)
    )


def _nearest(colour: Array, table: tuple[list[str], Array]) -> str:
    names, values = table
    return names[int(np.argmin(np.linalg.norm(values - colour, axis=-1)))]
