"""The renderer: a scene becomes a 64 x 64 RGB image, anti-aliased and deterministic.

Shapes are signed distance fields (pixels, negative inside), so an object's soft edge and its shadow are
simple functions of one number a pixel.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rewards.world.scenes import LIGHT, SHAPES, SIZE_PX, Item, Scene, is_light
from tcbench.errors import UnknownName

Array = NDArray[np.float32]

_BRIGHTEST = 0.98
"""Highest value of a lit colour channel, so that light never clips."""

EDGE_PX = 1.5
"""Width of an object's edge; 1 is plain anti-aliasing."""

SHADING = 0.48
"""Share of the light, or of darkness, at the ends of an object that is lit best."""

CAST_PX = 4
"""Distance to the right and down by which a cast is moved from its object."""

CAST_EDGE_PX = 1.8
"""Scale of the logistic edge of a cast."""

CAST_SHADOW, CAST_LIGHT = 0.62, 0.50
"""Share of the cast colour in the deepest shadow, and in the brightest pool of light."""


@cache
def _grid() -> tuple[Array, Array]:
    """Pixel centres x and y, each (64, 64)."""
    centres = np.arange(SIZE_PX, dtype=np.float32) + 0.5
    x, y = np.meshgrid(centres, centres)
    return x, y


@cache
def _outline(shape: str) -> Array:
    """Vertices (N, 2) of a shape of radius 1, y pointing down."""
    if shape == "square":
        corners = [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]
    elif shape == "triangle":
        corners = [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)]
    elif shape == "cross":
        a, b = 0.30, 0.96
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
        corners += [(a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    elif shape == "star":
        angles = -np.pi / 2 + np.pi / 5 * np.arange(10)
        radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.44)
        corners = list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))
    else:
        raise UnknownName("shape", shape, SHAPES)
    return np.asarray(corners, dtype=np.float32)


def signed_distance(item: Item) -> Array:
    """Return the distance in pixels of each pixel to an object's outline, (64, 64), negative inside."""
    x, y = _grid()
    u, v = (x - item.x) / item.radius, (y - item.y) / item.radius
    if item.shape == "circle":
        distance: Array = np.hypot(u, v) - 0.95
    elif item.shape == "ring":
        distance = np.abs(np.hypot(u, v) - 0.74) - 0.24
    else:
        distance = _polygon_distance(u, v, _outline(item.shape))
    return (distance * item.radius).astype(np.float32)


def _polygon_distance(u: Array, v: Array, corners: Array) -> Array:
    """Signed distance (H, W) to a closed polygon: the nearest point of any edge, and the even-odd rule."""
    # All arrays below are (edges, H, W): each pixel (u, v) against each edge.
    starts, ends = corners[:, None, None], np.roll(corners, -1, axis=0)[:, None, None]
    edge = ends - starts
    to_u, to_v = u - starts[..., 0], v - starts[..., 1]
    # Projection on the edge's line as a share of the edge; clipping it makes the ends the nearest points.
    along = (to_u * edge[..., 0] + to_v * edge[..., 1]) / (edge**2).sum(-1)
    along = np.clip(along, 0.0, 1.0)
    squared = (to_u - along * edge[..., 0]) ** 2 + (to_v - along * edge[..., 1]) ** 2
    # Even-odd rule: a pixel is inside if a ray to the right crosses an odd number of edges.
    crosses = (starts[..., 1] > v) != (ends[..., 1] > v)
    slope = np.where(edge[..., 1] == 0, 1.0, edge[..., 1])  # a horizontal edge never crosses; avoid 0 / 0
    at = starts[..., 0] + (v - starts[..., 1]) * edge[..., 0] / slope
    inside = (crosses & (u < at)).sum(0) % 2 == 1
    distance: Array = np.sqrt(squared.min(0))
    return np.where(inside, -distance, distance)


def lit_background(near: Array, far: Array) -> Array:
    """Return the background (64, 64, 3) between its colours at the top left and the bottom right corner."""
    x, y = _grid()
    along = ((x + y) / (2 * SIZE_PX))[..., None]
    canvas: Array = near + along * (far - near)
    return canvas


def cast_colour(background: str) -> Array:
    """Return the RGB towards which depth changes a background: black, or light if the background is dark."""
    return np.full(3, 0.02, dtype=np.float32) if is_light(background) else LIGHT


def _cast(distance: Array, background: str, depth: float) -> Array:
    """Return the share (64, 64) of the cast colour beside an object.

    Args:
        distance: Signed distance of the object (64, 64).
        background: Name of the background.
        depth: Axis of the style, 0 to 1.
    """
    # The object's outline moved away from the light, with a wide soft edge. The area beyond the border of
    # the image repeats its first row and column.
    moved = np.pad(distance, ((CAST_PX, 0), (CAST_PX, 0)), mode="edge")[:SIZE_PX, :SIZE_PX]
    strongest = CAST_SHADOW if is_light(background) else CAST_LIGHT
    soft: Array = strongest * depth / (1.0 + np.exp(moved / CAST_EDGE_PX))
    return soft


def render(scene: Scene) -> NDArray[np.uint8]:
    """Render a scene as an RGB image, uint8 of shape (64, 64, 3)."""
    style = scene.style
    canvas = lit_background(*style.shown_background(scene.background))
    distances = [signed_distance(item) for item in scene.items]
    for distance in distances:  # all casts come before all objects, so that none tints another object
        share = _cast(distance, scene.background, style.depth)[..., None]
        canvas += share * (cast_colour(scene.background) - canvas)
    x, y = _grid()
    for item, distance in zip(scene.items, distances, strict=True):
        # From 1 at the object's top left to -1 at its bottom right.
        facing = np.clip((item.x + item.y - x - y) / (1.5 * item.radius), -1.0, 1.0)[..., None]
        colour = style.shown_colour(item.colour)
        lit = colour + SHADING * style.shading * np.where(facing > 0, LIGHT - colour, colour) * facing
        cover = np.clip(0.5 - distance / EDGE_PX, 0.0, 1.0)[..., None]
        canvas += cover * (np.minimum(lit, _BRIGHTEST) - canvas)
    levels: NDArray[np.uint8] = np.rint(np.clip(canvas, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels
