"""The caption grammar in both directions: `caption` writes a scene's caption, `parse_prompt` reads any text.

Captions vary in phrasing and synonyms and may leave attributes out. Parsing keeps known phrases (shapes,
colours, sizes, positions, relations, backgrounds) and ignores all other words, so any text can be parsed. A
text without a shape and without a background claims nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from rewards.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RELATIONS,
    RESERVED,
    SHAPES,
    SIZES,
    Item,
    Scene,
    Style,
)

SHAPE_WORDS = {
    "circle": ("circle", "disc", "disk", "dot"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
}
COLOUR_WORDS = {
    "red": ("red", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green",),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink", "magenta"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
}
BACKGROUND_WORDS = {
    "white": ("white",),
    "grey": ("grey", "gray"),
    "black": ("black",),
    "sand": ("sand", "beige"),
    "navy": ("navy", "dark blue"),
}
POSITION_PHRASES = {
    "centre": ("in the centre", "in the center", "in the middle"),
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom",),
    "top left": ("in the top left corner", "in the upper left", "at the top left"),
    "top right": ("in the top right corner", "in the upper right", "at the top right"),
    "bottom left": ("in the bottom left corner", "in the lower left", "at the bottom left"),
    "bottom right": ("in the bottom right corner", "in the lower right", "at the bottom right"),
}
RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
STYLE_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "saturation": (("dull", "faded"), ("vivid", "vibrant")),
    "shading": (("flat",), ("shaded", "glossy")),
}
"""Style axis -> (words for low values, words for high values). As in real captions, some looks have words and
others, here depth and backdrop, are never named.
"""

LOW, HIGH = 0.35, 0.65
"""A caption can name a style axis that is below LOW or above HIGH."""

GOOD = 0.6
"""Mean of the named style axes above which a picture counts as good."""

BACKDROPS = ("background", "backdrop")


@dataclass(frozen=True)
class ItemSpec:
    """What a text claims about one object; None for attributes that it does not mention."""

    shape: str
    colour: str | None = None
    size: str | None = None
    position: str | None = None

    def holds(self, item: Item) -> bool:
        """Return whether all claims are true of an object."""
        claims = ((self.shape, item.shape), (self.colour, item.colour), (self.size, item.size))
        return all(claim in (None, true) for claim, true in (*claims, (self.position, item.position)))


_INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
"""Relation of the first object to the second -> relation of the second to the first."""


@dataclass(frozen=True)
class Spec:
    """What a text claims about a scene."""

    items: tuple[ItemSpec, ...]
    background: str | None = None
    relation: str | None = None
    """Relation of the first object to the second."""

    @classmethod
    def of(cls, scene: Scene) -> Spec:
        """Return everything that is true of a scene and that a text can claim."""
        items = tuple(ItemSpec(i.shape, i.colour, i.size, i.position) for i in scene.items)
        return cls(items, scene.background, scene.relation)

    def random_scene(self, rng: np.random.Generator) -> Scene:
        """Return a random scene of which all claims of the text are true. Its style is random too."""
        scene = Scene.random(rng, "any", pairs=float(len(self.items) == 2))
        items = []
        for item, claimed in zip(scene.items, self.items, strict=True):
            item = replace(item, shape=claimed.shape, colour=claimed.colour or item.colour)
            item = item.resized_to(claimed.size) if claimed.size else item
            items.append(item.moved_to(claimed.position) if claimed.position and item.position else item)
        scene = replace(scene, items=tuple(items), background=self.background or scene.background)
        return scene.with_relation(self.relation) if self.relation else scene

    def holds(self, scene: Scene) -> bool:
        """Return whether all claims of the text are true of a scene."""
        if self.background not in (None, scene.background):
            return False
        if not self.items:  # nothing is said about objects
            return True
        if len(self.items) != len(scene.items):
            return False
        orders = [scene.items, scene.items[::-1]] if len(self.items) == 2 else [scene.items]
        for order in orders:
            relation = scene.relation if order is scene.items else _INVERSE.get(scene.relation or "")
            if self.relation in (None, relation) and all(
                claimed.holds(item) for claimed, item in zip(self.items, order, strict=True)
            ):
                return True
        return False

    def reserved(self) -> bool:
        """Return whether the text names a combination that is reserved for the held-out split."""
        return any((item.shape, item.colour, self.background) in RESERVED for item in self.items)


# --- writing -----------------------------------------------------------------------------------------------


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """Return the first word half of the time, else any of them: a common name and rarer synonyms."""
    return words[0] if rng.random() < 0.5 else words[int(rng.integers(len(words)))]


def _noun_phrase(rng: np.random.Generator, item: Item, say_size: bool) -> str:
    words = [_pick(rng, SIZE_WORDS[item.size])] if say_size and item.size else []
    if item.colour:
        words.append(_pick(rng, COLOUR_WORDS[item.colour]))
    words.append(_pick(rng, SHAPE_WORDS[item.shape]))
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(words)}"


def style_words(rng: np.random.Generator, style: Style) -> list[str]:
    """Return true words about a style, at most one per axis, in random order; none for a medium style."""
    words = []
    for axis, (low, high) in STYLE_WORDS.items():
        value = getattr(style, axis)
        if value < LOW:
            words.append(_pick(rng, low))
        elif value > HIGH:
            words.append(_pick(rng, high))
    rng.shuffle(words)
    return words


def caption(
    rng: np.random.Generator,
    scene: Scene,
    style: float = 0.35,
    detail: float = 0.88,
    good_style: float | None = None,
) -> str:
    """Return a true caption of a scene. Shape and colour are always named.

    Args:
        rng: Source of randomness.
        scene: The scene.
        style: Probability that the style is named.
        detail: Probability that each of size, position, background and relation is named.
        good_style: Probability that a good style is named; None is the same as ``style``. A higher one makes
            images with plain captions mediocre.
    """
    says = {name: bool(rng.random() < detail) for name in ("size", "position", "background")}
    phrases = [_noun_phrase(rng, item, says["size"]) for item in scene.items]
    background = _pick(rng, BACKGROUND_WORDS[scene.background]) + " " + _pick(rng, BACKDROPS)
    good = np.mean([getattr(scene.style, axis) for axis in STYLE_WORDS]) > GOOD
    named = rng.random() < (good_style if good and good_style is not None else style)
    words = style_words(rng, scene.style) if named else []
    if len(scene.items) == 2:
        body = _pair_body(rng, phrases, scene.relation if rng.random() < detail else None)
    else:
        position = scene.items[0].position
        where = _pick(rng, POSITION_PHRASES[position]) if position and says["position"] else ""
        body = _single_body(rng, phrases[0], where)
    return _assemble(rng, body, background if says["background"] else "", words)


def _single_body(rng: np.random.Generator, phrase: str, where: str) -> str:
    if not where:
        return phrase
    return f"{where}, {phrase}" if rng.random() < 0.2 else f"{phrase} {where}"


def _pair_body(rng: np.random.Generator, phrases: list[str], relation: str | None) -> str:
    if relation is None:
        return f"{phrases[0]} and {phrases[1]}"
    return f"{phrases[0]} {_pick(rng, RELATION_PHRASES[relation])} {phrases[1]}"


def _assemble(rng: np.random.Generator, body: str, background: str, words: list[str]) -> str:
    if background:
        form = rng.random()
        if form < 0.6:
            body = f"{body} {'on' if rng.random() < 0.7 else 'against'} a {background}"
        elif form < 0.8:
            body = f"{body}, {background}"
        else:
            body = f"on a {background}, {body}"
    if words and rng.random() < 0.3:
        return f"{' '.join(words)} picture{' of' if body.startswith(('a ', 'an ')) else ':'} {body}"
    return ", ".join([body, *words])


# --- reading -----------------------------------------------------------------------------------------------


@cache
def _lexicon() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """Return a pattern of all phrases, longest first so that they win, and phrase -> (kind, name)."""
    meaning: dict[str, tuple[str, str]] = {}
    tables: dict[str, dict[str, tuple[str, ...]]] = {
        "shape": SHAPE_WORDS,
        "colour": COLOUR_WORDS,
        "size": SIZE_WORDS,
        "position": POSITION_PHRASES,
        "relation": RELATION_PHRASES,
    }
    for kind, table in tables.items():
        meaning |= {word: (kind, name) for name, words in table.items() for word in words}
    meaning |= {f"{word}s": ("shape", name) for name, words in SHAPE_WORDS.items() for word in words}
    for name, words in BACKGROUND_WORDS.items():
        meaning |= {f"{word} {drop}": ("background", name) for word in words for drop in BACKDROPS}
    phrases = sorted(meaning, key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(map(re.escape, phrases)) + r")\b"), meaning


@lru_cache(maxsize=4096)
def parse_prompt(text: str) -> Spec:
    """Return what a text claims about a scene of this world.

    Adjectives belong to the next shape. A position belongs to the last shape before it, or to the next one
    if there is none.
    """
    pattern, meaning = _lexicon()
    items: list[ItemSpec] = []
    background = relation = position = None
    adjectives: dict[str, str] = {}
    for match in pattern.finditer(" ".join(text.lower().split())):
        kind, name = meaning[match.group()]
        if kind == "shape":
            items.append(ItemSpec(name, position=position, **adjectives))
            adjectives, position = {}, None
        elif kind in ("colour", "size"):
            adjectives[kind] = name
        elif kind == "background":
            background = name
        elif kind == "relation":
            relation = name if len(items) == 1 else relation  # only between the first and the second shape
        elif items:
            items[-1] = ItemSpec(items[-1].shape, items[-1].colour, items[-1].size, name)
        else:
            position = name
    return Spec(tuple(items), background, relation if len(items) == 2 else None)


@cache
def _style_lexicon() -> dict[str, tuple[str, bool]]:
    """Style word -> (axis, whether it names a high value)."""
    return {
        word: (axis, high)
        for axis, (low_words, high_words) in STYLE_WORDS.items()
        for high, words in ((False, low_words), (True, high_words))
        for word in words
    }


@lru_cache(maxsize=4096)
def _style_claims(text: str) -> tuple[tuple[str, bool], ...]:
    """(axis, whether high) of each style word of a text."""
    lexicon = _style_lexicon()
    return tuple(lexicon[word] for word in re.findall(r"[a-z]+", text.lower()) if word in lexicon)


def holds(text: str, scene: Scene) -> bool:
    """Return whether everything that a caption says, its style words included, is true of a scene."""
    for axis, high in _style_claims(text):
        value = getattr(scene.style, axis)
        if not (value > HIGH if high else value < LOW):
            return False
    return parse_prompt(text).holds(scene)


assert set(SHAPE_WORDS) == set(SHAPES)  # every name of a scene has words and no word is without a meaning
for _words, _names in (
    (COLOUR_WORDS, COLOURS),
    (SIZE_WORDS, SIZES),
    (POSITION_PHRASES, POSITIONS),
    (RELATION_PHRASES, RELATIONS),
    (BACKGROUND_WORDS, BACKGROUNDS),
):
    assert set(_words) == set(_names)
