"""Scenes of the embedded world: their vocabulary, and random scenes.

A scene is one or two shapes of a given size and position on a background, rendered in a given look (`Style`).
Scenes are frozen records, so a scene is the ground truth of its image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SIZE_PX = 64
"""Width and height of every world image in pixels."""

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
"""Colour name -> RGB in [0, 1] at full saturation. No value is 0 or 1, because clipped pixels cost points."""

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "white": (0.94, 0.94, 0.94),
    "grey": (0.52, 0.52, 0.52),
    "black": (0.07, 0.07, 0.07),
    "sand": (0.88, 0.79, 0.62),
    "navy": (0.09, 0.11, 0.33),
}

SIZES: dict[str, float] = {"small": 11.0, "medium": 15.0, "large": 20.5}
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
"""Sizes of objects in a pair. Large objects would touch."""

OFFSET_PX: dict[str, float] = {"small": 16.0, "medium": 14.5, "large": 9.5}
"""Size name -> distance in pixels between the centre of the image and an object at an outer position."""

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
"""The held-out split: a tenth of all (shape, colour, background) combinations, which training never shows.

Every name, and every pair of names, also occurs in training; only the combination of three is new.
"""

SceneSplit = Literal["train", "reserved", "any"]
"""Scenes without a reserved combination, with at least one, or both."""


@dataclass(frozen=True)
class Style:
    """Look of a render in four independent axes, each from 0 (worst) to 1 (best)."""

    saturation: float
    """Dull to vivid colours."""
    shading: float
    """Flat objects to objects that are lit from the top left."""
    depth: float
    """No shadow to a strong drop shadow, which is a pool of light on dark backgrounds."""
    backdrop: float
    """Plain background to a gradient of light across it."""

    @property
    def quality(self) -> float:
        """Mean of the four axes, in [0, 1]."""
        return (self.saturation + self.shading + self.depth + self.backdrop) / 4

    @classmethod
    def random(cls, rng: np.random.Generator) -> Self:
        """Return a random style, mostly mediocre and seldom good, whose axes are independent."""
        return cls(*rng.beta(1.0, 1.4, size=4).tolist())

    @classmethod
    def together(cls, rng: np.random.Generator) -> Self:
        """Return a style as `random` does, with axes that share a level.

        Their correlation is about 0.35: a picture with one good axis is a little more likely to be good in
        the others, as in real collections.
        """
        level = rng.uniform(0.7, 1.0) if rng.random() < 0.15 else rng.beta(2.0, 3.0)
        return cls(*np.clip(level + rng.normal(0.0, 0.32, size=4), 0.0, 1.0).tolist())

    @classmethod
    def even(cls, rng: np.random.Generator) -> Self:
        """Return a style whose axes are independent and uniform, as in the training of rewards."""
        return cls(*rng.uniform(0.0, 1.0, size=4).tolist())

    @classmethod
    def level(cls, rng: np.random.Generator) -> Self:
        """Return a style with all axes at one uniform level, from the worst pictures to the best."""
        return cls(*[float(rng.uniform(0.0, 1.0))] * 4)

    def shown_colour(self, colour: str) -> Array:
        """Return the RGB of an object of a colour. Dull styles mix it with a grey of similar lightness."""
        rgb = np.asarray(COLOURS[colour], dtype=np.float32)
        # Rec. 601 luma, pulled half way to mid-grey; at least 0.4 of the colour stays, so it can still be
        # named.
        grey = 0.5 * float(rgb @ LUMA) + 0.25
        keep = 0.40 + 0.60 * self.saturation
        return (grey + (rgb - grey) * keep).astype(np.float32)

    def shown_background(self, background: str) -> tuple[Array, Array]:
        """Return the RGB of a background at the top left corner of the image and at the bottom right.

        Light comes from the top left: it brightens the near corner of a dark background, and the far corner
        of a light one lies in shade.
        """
        rgb = np.asarray(BACKGROUNDS[background], dtype=np.float32)
        step = np.float32(GRADIENT * self.backdrop)
        return (rgb, rgb - step * rgb) if is_light(background) else (rgb + step * (LIGHT - rgb), rgb)


GRADIENT = 0.36
"""Share by which the best backdrop darkens the far corner of a light background, or lightens a dark one."""

LIGHT = np.array([0.92, 0.92, 0.96], dtype=np.float32)
"""RGB of the light."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the luma of Rec. 601."""


def is_light(background: str) -> bool:
    """Return whether a background shows shadows; a dark one shows pools of light instead."""
    return float(np.asarray(BACKGROUNDS[background], dtype=np.float32) @ LUMA) > 0.4


CLEAN = Style(saturation=0.8, shading=0.0, depth=0.0, backdrop=0.0)
"""The style of a reference render: strong colours and no other effect."""


@dataclass(frozen=True)
class Item:
    """One object: names for its caption, and pixels for its image."""

    shape: str
    colour: str
    size: str | None
    """None if captions must not name the size."""
    x: float
    """Centre in pixels."""
    y: float
    """Centre in pixels, pointing down."""
    radius: float
    """Radius in pixels."""
    position: str | None = None
    """None if captions must not name the position, as in a pair."""

    def moved_to(self, position: str) -> Item:
        """Return the object at another named position, with its small random offset kept."""
        assert self.size is not None
        assert self.position is not None
        column, row = np.subtract(POSITIONS[position], POSITIONS[self.position]) * OFFSET_PX[self.size]
        return replace(self, position=position, x=self.x + float(column), y=self.y + float(row))

    def resized_to(self, size: str) -> Item:
        """Return the object in another named size, at the same named position."""
        assert self.size is not None
        column, row = POSITIONS[self.position or "centre"]
        step = (
            OFFSET_PX[size] - OFFSET_PX[self.size]
        )  # outer positions are closer to the edge for small objects
        radius = self.radius * SIZES[size] / SIZES[self.size]
        return replace(self, size=size, radius=radius, x=self.x + step * column, y=self.y + step * row)


@dataclass(frozen=True)
class Scene:
    """One or two objects, a background and a style."""

    items: tuple[Item, ...]
    background: str
    style: Style
    relation: str | None = None
    """Relation of the first object to the second; None for one object."""

    def reserved(self) -> bool:
        """Return whether any object and the background are a `RESERVED` combination."""
        return any((item.shape, item.colour, self.background) in RESERVED for item in self.items)

    def with_relation(self, relation: str) -> Scene:
        """Return the scene with its two objects rotated about the centre, so that another relation holds."""
        assert self.relation is not None
        (across, down), (to_across, to_down) = RELATIONS[self.relation], RELATIONS[relation]
        # Cosine and sine of the angle between the two directions, from their dot and cross product.
        cosine, sine = across * to_across + down * to_down, across * to_down - down * to_across

        def rotated(item: Item) -> Item:
            u, v, middle = item.x - SIZE_PX / 2, item.y - SIZE_PX / 2, SIZE_PX / 2
            return replace(item, x=middle + u * cosine - v * sine, y=middle + u * sine + v * cosine)

        return replace(self, items=tuple(rotated(item) for item in self.items), relation=relation)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        split: SceneSplit = "train",
        pairs: float = 0.3,
        looks: Callable[[np.random.Generator], Style] = Style.random,
    ) -> Scene:
        """Return a random scene.

        Args:
            rng: Source of randomness.
            split: "train" for no reserved combination, "reserved" for at least one, "any" for either.
            pairs: Probability of two objects, before the split is applied.
            looks: `Style.random` or `Style.even`.
        """
        while True:
            background = str(rng.choice(list(BACKGROUNDS)))
            style = looks(rng)
            make = _random_pair if rng.random() < pairs else _random_single
            scene = make(rng, background, style)
            if split == "any" or scene.reserved() == (split == "reserved"):
                return scene

    def stated_attributes(self) -> list[tuple[int, str]]:
        """Return (object index, attribute) of everything that a caption of the scene can get wrong."""
        stated = [
            (index, name)
            for index, item in enumerate(self.items)
            for name in ("shape", "colour", "size", "position")
            if getattr(item, name) is not None
        ]
        return [*stated, (0, "background"), *([(0, "relation")] if self.relation else [])]


def _random_single(rng: np.random.Generator, background: str, style: Style) -> Scene:
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
    size, position = str(rng.choice(list(SIZES))), str(rng.choice(list(POSITIONS)))
    column, row = POSITIONS[position]
    # A little off the exact position, as objects in real images are.
    x, y = SIZE_PX / 2 + OFFSET_PX[size] * np.array([column, row]) + rng.uniform(-1.5, 1.5, size=2)
    item = Item(shape, colour, size, float(x), float(y), _radius(rng, size), position)
    return Scene((item,), background, style)


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
        # Far apart along the relation's direction and close across it, so that no other relation holds.
        centre = SIZE_PX / 2 + along * side * rng.uniform(16.2, 17.0) + across * rng.uniform(-5.0, 5.0)
        items.append(Item(shape, colour, size, float(centre[0]), float(centre[1]), _radius(rng, size)))
    return Scene(tuple(items), background, style, relation)


def _radius(rng: np.random.Generator, size: str) -> float:
    return SIZES[size] * float(rng.uniform(0.95, 1.05))
