"""The renderer: a scene becomes a 64 x 64 RGB picture, anti-aliased and deterministic.

Shapes are signed distance fields (negative inside, in pixels), so an edge of any softness and a glow of any
width are simple functions of one number per pixel.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rewards.world.scenes import BACKGROUNDS, COLOURS, SIZE_PX, Item, Scene, Style

Array = NDArray[np.float32]

BRIGHTEST = 0.98
"""What a glow lifts a colour to at most: clipping is a fault, not a style."""


@cache
def _grid() -> tuple[Array, Array]:
    centres = np.arange(SIZE_PX, dtype=np.float32) + 0.5
    x, y = np.meshgrid(centres, centres)
    return x, y


@cache
def _outline(shape: str) -> Array:
    """Vertices of a unit polygon, y pointing down, shape (N, 2)."""
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
        raise ValueError(f"{shape!r} is not a polygon")
    return np.asarray(corners, dtype=np.float32)


def signed_distance(item: Item) -> Array:
    """Distance in pixels from every pixel centre to the outline of an object, negative inside, (64, 64)."""
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
    """Distance to a closed polygon: nearest point of any edge, sign by the even-odd rule."""
    starts, ends = corners[:, None, None], np.roll(corners, -1, axis=0)[:, None, None]
    edge = ends - starts
    to_u, to_v = u - starts[..., 0], v - starts[..., 1]
    along = (to_u * edge[..., 0] + to_v * edge[..., 1]) / (edge**2).sum(-1)
    along = np.clip(along, 0.0, 1.0)
    squared = (to_u - along * edge[..., 0]) ** 2 + (to_v - along * edge[..., 1]) ** 2
    crosses = (starts[..., 1] > v) != (ends[..., 1] > v)
    slope = np.where(edge[..., 1] == 0, 1.0, edge[..., 1])
    at = starts[..., 0] + (v - starts[..., 1]) * edge[..., 0] / slope
    inside = (crosses & (u < at)).sum(0) % 2 == 1
    distance: Array = np.sqrt(squared.min(0))
    return np.where(inside, -distance, distance)


def shown_colour(colour: str, style: Style) -> Array:
    """RGB of an object as a style shows it.

    Dull styles pull it towards a middle grey of its own lightness.
    """
    rgb = np.asarray(COLOURS[colour], dtype=np.float32)
    grey = 0.5 * float(rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)) + 0.25
    keep = 0.30 + 0.70 * style.saturation
    return (grey + (rgb - grey) * keep).astype(np.float32)


def shown_background(background: str, style: Style) -> Array:
    """RGB of a background as a style shows it: dull styles lower its contrast a little."""
    rgb = np.asarray(BACKGROUNDS[background], dtype=np.float32)
    return (0.5 + (rgb - 0.5) * (0.86 + 0.14 * style.saturation)).astype(np.float32)


def render(scene: Scene, noise_seed: int = 0) -> NDArray[np.uint8]:
    """Draw a scene: uint8 RGB of shape (64, 64, 3). ``noise_seed`` is used only where the style is noisy."""
    style = scene.style
    canvas = np.broadcast_to(shown_background(scene.background, style), (SIZE_PX, SIZE_PX, 3)).copy()
    distances = [signed_distance(item) for item in scene.items]
    colours = [shown_colour(item.colour, style) for item in scene.items]
    for distance, colour in zip(distances, colours, strict=True):
        halo = 0.50 * style.glow * np.exp(-np.maximum(distance, 0.0) / 5.0)
        canvas += halo[..., None] * (colour - canvas)
    edge_px = 1.0 + 3.6 * (1.0 - style.sharpness)
    for distance, colour in zip(distances, colours, strict=True):
        cover = np.clip(0.5 - distance / edge_px, 0.0, 1.0)
        lift = 1.0 + 0.10 * style.glow * np.clip(-distance / 8.0, 0.0, 1.0)[..., None]
        lit = np.minimum(colour * lift, BRIGHTEST)
        canvas += cover[..., None] * (lit - canvas)
    sigma = 0.075 * (1.0 - style.cleanness)
    canvas += np.random.default_rng(noise_seed).normal(0.0, 1.0, canvas.shape).astype(np.float32) * sigma
    levels: NDArray[np.uint8] = np.rint(np.clip(canvas, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels
