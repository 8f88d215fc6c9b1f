"""Scenes of the embedded world: what can be in a picture, and how scenes are drawn at random.

A scene is one or two flat shapes on a plain background, at a stated size and place, rendered at a stated
quality (:class:`Style`). Everything is a small frozen record, so a scene is its own ground truth.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

SIZE_PX = 64
"""Width and height of every world picture in pixels."""

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.12),
    "orange": (0.96, 0.52, 0.06),
    "yellow": (0.95, 0.88, 0.10),
    "green": (0.12, 0.72, 0.18),
    "cyan": (0.10, 0.82, 0.86),
    "blue": (0.14, 0.32, 0.94),
    "purple": (0.52, 0.16, 0.80),
    "pink": (0.96, 0.34, 0.70),
}
"""Colour name -> RGB in [0, 1] at full saturation. None touches 0 or 1: clipping is a fault, not a style."""

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "white": (0.94, 0.94, 0.94),
    "grey": (0.52, 0.52, 0.52),
    "black": (0.07, 0.07, 0.07),
    "sand": (0.88, 0.79, 0.62),
    "navy": (0.09, 0.11, 0.33),
}

SIZES: dict[str, float] = {"small": 10.0, "medium": 14.5, "large": 20.5}
"""Size name -> radius in pixels."""

POSITIONS: dict[str, tuple[int, int]] = {
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
"""Position name -> (column, row) of a 3 x 3 grid, y pointing down."""

PAIR_SIZES = ("small", "medium")
"""Sizes of two objects in one picture: larger ones would touch."""

OFFSET_PX: dict[str, float] = {"small": 16.5, "medium": 15.0, "large": 9.5}
"""How far from the middle a position moves an object of each size."""

RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Relation name -> direction from the second object to the first."""

RESERVED: frozenset[tuple[str, str, str]] = frozenset(
    (shape, colour, background)
    for (s, shape), (c, colour), (b, background) in itertools.product(
        enumerate(SHAPES), enumerate(COLOURS), enumerate(BACKGROUNDS)
    )
    if (s + 2 * c + 3 * b) % 10 == 0
)
"""(shape, colour, background) combinations that no training caption or picture holds: the held-out split."""

Split = Literal["train", "reserved", "any"]


@dataclass(frozen=True)
class Style:
    """Rendering quality: dull to vivid, soft to crisp, noisy to clean, flat to glowing, each 0 to 1."""

    saturation: float
    sharpness: float
    cleanness: float
    glow: float

    @property
    def quality(self) -> float:
        """Mean of the four axes, in [0, 1]."""
        return (self.saturation + self.sharpness + self.cleanness + self.glow) / 4


CLEAN = Style(saturation=0.8, sharpness=1.0, cleanness=1.0, glow=0.0)
"""The style of a clean reference render."""


@dataclass(frozen=True)
class Item:
    """One object: names for its caption, pixels for its picture (centre ``x``, ``y`` and ``radius``).

    ``size`` and ``position`` are ``None`` where a caption is to leave them unsaid.
    """

    shape: str
    colour: str
    size: str | None
    x: float
    y: float
    radius: float
    position: str | None = None


@dataclass(frozen=True)
class Scene:
    """One or two objects (``relation`` goes from the first to the second), a background and a style."""

    items: tuple[Item, ...]
    background: str
    style: Style
    relation: str | None = None

    def reserved(self) -> bool:
        """Whether any object is one of the :data:`RESERVED` combinations."""
        return any((item.shape, item.colour, self.background) in RESERVED for item in self.items)


def random_style(rng: np.random.Generator) -> Style:
    """Mostly mediocre, one in five good: so plain captions give headroom and style words mean something."""
    quality = rng.uniform(0.75, 1.0) if rng.random() < 0.2 else rng.beta(2.0, 2.8)
    return Style(*np.clip(quality + rng.normal(0.0, 0.14, size=4), 0.0, 1.0).tolist())


def random_scene(rng: np.random.Generator, split: Split = "train", pairs: float = 0.3) -> Scene:
    """Draw a scene; ``pairs`` is the share with two objects.

    ``split`` "train" never holds a reserved combination, "reserved" always does, "any" does not look.
    """
    while True:
        background = str(rng.choice(list(BACKGROUNDS)))
        style = random_style(rng)
        draw = _random_pair if rng.random() < pairs else _random_single
        scene = draw(rng, background, style)
        if split == "any" or scene.reserved() == (split == "reserved"):
            return scene


def place_single(rng: np.random.Generator, shape: str, colour: str, size: str, position: str) -> Item:
    """An object at a named position, a little off its exact place and size as real pictures are."""
    column, row = POSITIONS[position]
    x, y = SIZE_PX / 2 + OFFSET_PX[size] * np.array([column, row]) + rng.uniform(-1.5, 1.5, size=2)
    return Item(shape, colour, size, float(x), float(y), _radius(rng, size), position)


def moved(item: Item, position: str) -> Item:
    """The object at another named position, as far off its exact place as before."""
    assert item.size is not None
    assert item.position is not None
    column, row = np.subtract(POSITIONS[position], POSITIONS[item.position]) * OFFSET_PX[item.size]
    return replace(item, position=position, x=item.x + float(column), y=item.y + float(row))


def resized(item: Item, size: str) -> Item:
    """The object in another named size; at a named position it stays there."""
    assert item.size is not None
    column, row = POSITIONS[item.position or "centre"]
    step = OFFSET_PX[size] - OFFSET_PX[item.size]
    radius = item.radius * SIZES[size] / SIZES[item.size]
    return replace(item, size=size, radius=radius, x=item.x + step * column, y=item.y + step * row)


def related(scene: Scene, relation: str) -> Scene:
    """The two objects turned about the middle of the picture, so that another relation holds."""
    assert scene.relation is not None
    (across, down), (to_across, to_down) = RELATIONS[scene.relation], RELATIONS[relation]
    # the rotation that takes one direction to the other
    cosine, sine = across * to_across + down * to_down, across * to_down - down * to_across

    def turned(item: Item) -> Item:
        u, v, middle = item.x - SIZE_PX / 2, item.y - SIZE_PX / 2, SIZE_PX / 2
        return replace(item, x=middle + u * cosine - v * sine, y=middle + u * sine + v * cosine)

    return replace(scene, items=tuple(turned(item) for item in scene.items), relation=relation)


def _random_single(rng: np.random.Generator, background: str, style: Style) -> Scene:
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
    size, position = str(rng.choice(list(SIZES))), str(rng.choice(list(POSITIONS)))
    return Scene((place_single(rng, shape, colour, size, position),), background, style)


def _random_pair(rng: np.random.Generator, background: str, style: Style) -> Scene:
    relation = str(rng.choice(list(RELATIONS)))
    along = np.array(RELATIONS[relation], dtype=float)
    across = np.array([along[1], along[0]])
    first = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
    while (second := (str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))))) == first:
        continue
    items = []
    for (shape, colour), side in ((first, 1.0), (second, -1.0)):
        size = str(rng.choice(PAIR_SIZES))
        centre = SIZE_PX / 2 + along * side * rng.uniform(16.0, 16.8) + across * rng.uniform(-5.0, 5.0)
        items.append(Item(shape, colour, size, float(centre[0]), float(centre[1]), _radius(rng, size)))
    return Scene(tuple(items), background, style, relation)


def _radius(rng: np.random.Generator, size: str) -> float:
    return SIZES[size] * float(rng.uniform(0.95, 1.05))
