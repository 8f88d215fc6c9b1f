"""The renderer: a scene becomes a 64 x 64 RGB image, anti-aliased and deterministic.

Shapes are signed distance fields (pixels, negative inside), so an edge of any softness and a glow of any
width are simple functions of one number a pixel.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rewards.world.scenes import SHAPES, SIZE_PX, Item, Scene
from tcbench.errors import UnknownName

Array = NDArray[np.float32]

_BRIGHTEST = 0.98
"""Highest value to which a glow lifts a colour channel, so that a glow never clips."""


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


def render(scene: Scene, noise_seed: int = 0) -> NDArray[np.uint8]:
    """Render a scene.

    Args:
        scene: The scene.
        noise_seed: Seed of the pixel noise of styles that are not clean.

    Returns:
        RGB image, uint8 of shape (64, 64, 3).
    """
    # The range of each style axis is wide, because the micro VAE's 8 x 8 latents keep colour and light well
    # but hardly noise and sharpness. With smaller ranges style words would not change what is generated.
    style = scene.style
    canvas = np.broadcast_to(style.shown_background(scene.background), (SIZE_PX, SIZE_PX, 3)).copy()
    distances = [signed_distance(item) for item in scene.items]
    colours = [style.shown_colour(item.colour) for item in scene.items]
    for distance, colour in zip(distances, colours, strict=True):
        # A glow decays exponentially outside the outline. All halos come before all objects, so that none
        # tints another object.
        halo = 0.50 * style.glow * np.exp(-np.maximum(distance, 0.0) / 5.0)
        canvas += halo[..., None] * (colour - canvas)
    edge_px = 1.0 + 3.6 * (1.0 - style.sharpness)  # an edge of one pixel is plain anti-aliasing
    for distance, colour in zip(distances, colours, strict=True):
        cover = np.clip(0.5 - distance / edge_px, 0.0, 1.0)
        lift = 1.0 + 0.10 * style.glow * np.clip(-distance / 8.0, 0.0, 1.0)[..., None]
        lit = np.minimum(colour * lift, _BRIGHTEST)
        canvas += cover[..., None] * (lit - canvas)
    sigma = 0.075 * (1.0 - style.cleanness)
    canvas += np.random.default_rng(noise_seed).normal(0.0, 1.0, canvas.shape).astype(np.float32) * sigma
    levels: NDArray[np.uint8] = np.rint(np.clip(canvas, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels
