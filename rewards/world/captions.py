"""The caption grammar, both ways: scenes to captions, and any text back to the claims it makes.

Captions use several phrasings and synonyms and need not say everything. Reading a prompt keeps what it knows
(shapes, colours, sizes, positions, relations, backgrounds) and ignores every other word, so any text is
readable; a text without a shape and without a background makes no claim.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from rewards.world.scenes import BACKGROUNDS, COLOURS, POSITIONS, RELATIONS, SHAPES, SIZES, Item, Scene, Style

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
    "sharpness": (("soft", "blurry"), ("crisp", "sharp")),
    "cleanness": (("noisy", "grainy"), ("clean",)),
    "glow": (("flat",), ("glowing",)),
}
"""Style axis -> (words said when it is low, words said when it is high)."""

LOW, HIGH = 0.35, 0.65
"""Below LOW or above HIGH a style axis can be named in a caption."""

GOOD = 0.65
"""Quality (:attr:`rewards.world.scenes.Style.quality`) above which captions name it twice as often."""

BACKDROPS = ("background", "backdrop")


@dataclass(frozen=True)
class ItemSpec:
    """What a text says of one object; ``None`` where it says nothing."""

    shape: str
    colour: str | None = None
    size: str | None = None
    position: str | None = None


@dataclass(frozen=True)
class Spec:
    """What a text says of a scene. ``relation`` goes from the first object to the second."""

    items: tuple[ItemSpec, ...]
    background: str | None = None
    relation: str | None = None

    def reserved(self) -> bool:
        """Whether the text names a combination reserved for the held-out split."""
        from rewards.world.scenes import RESERVED

        return any((item.shape, item.colour, self.background) in RESERVED for item in self.items)


# --- writing -----------------------------------------------------------------------------------------------


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """The first word half of the time, else any: a common name and rarer synonyms."""
    return words[0] if rng.random() < 0.5 else words[int(rng.integers(len(words)))]


def _noun_phrase(rng: np.random.Generator, item: Item | ItemSpec, say_size: bool) -> str:
    words = [_pick(rng, SIZE_WORDS[item.size])] if say_size and item.size else []
    if item.colour:
        words.append(_pick(rng, COLOUR_WORDS[item.colour]))
    words.append(_pick(rng, SHAPE_WORDS[item.shape]))
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(words)}"


def style_words(rng: np.random.Generator, style: Style) -> list[str]:
    """True words about a style, one an axis, in random order; empty when every axis is middling."""
    words = []
    for axis, (low, high) in STYLE_WORDS.items():
        value = getattr(style, axis)
        if value < LOW:
            words.append(_pick(rng, low))
        elif value > HIGH:
            words.append(_pick(rng, high))
    rng.shuffle(words)
    return words


def caption(rng: np.random.Generator, scene: Scene, style: float = 0.35, detail: float = 0.88) -> str:
    """A true caption: ``style`` is the chance that quality is named, ``detail`` that each attribute is.

    Good quality is named twice as often, so what is said nothing of tends to be mediocre. Shape and colour
    are always said; size, position, background and relation with chance ``detail``.
    """
    says = {name: bool(rng.random() < detail) for name in ("size", "position", "background")}
    phrases = [_noun_phrase(rng, item, says["size"]) for item in scene.items]
    background = _pick(rng, BACKGROUND_WORDS[scene.background]) + " " + _pick(rng, BACKDROPS)
    named = rng.random() < (2 * style if scene.style.quality > GOOD else style)
    words = style_words(rng, scene.style) if named else []
    if len(scene.items) == 2:
        body = _pair_body(rng, phrases, scene.relation if rng.random() < detail else None)
    else:
        position = scene.items[0].position
        place = _pick(rng, POSITION_PHRASES[position]) if position and says["position"] else ""
        body = _single_body(rng, phrases[0], place)
    return _assemble(rng, body, background if says["background"] else "", words)


def _single_body(rng: np.random.Generator, phrase: str, place: str) -> str:
    if not place:
        return phrase
    return f"{place}, {phrase}" if rng.random() < 0.2 else f"{phrase} {place}"


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
    """One pattern, longest phrase first, and phrase -> (kind, name)."""
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


def read(text: str) -> Spec:
    """What a text claims.

    Adjectives belong to the next shape; a position belongs to the last shape, or to the next one where it
    comes first.
    """
    pattern, meaning = _lexicon()
    items: list[ItemSpec] = []
    background = relation = place = None
    adjectives: dict[str, str] = {}
    for match in pattern.finditer(" ".join(text.lower().split())):
        kind, name = meaning[match.group()]
        if kind == "shape":
            items.append(ItemSpec(name, position=place, **adjectives))
            adjectives, place = {}, None
        elif kind in ("colour", "size"):
            adjectives[kind] = name
        elif kind == "background":
            background = name
        elif kind == "relation":
            relation = name if len(items) == 1 else relation
        elif items:
            items[-1] = ItemSpec(items[-1].shape, items[-1].colour, items[-1].size, name)
        else:
            place = name
    return Spec(tuple(items), background, relation if len(items) == 2 else None)


assert set(SHAPE_WORDS) == set(SHAPES)
for _words, _things in (
    (COLOUR_WORDS, COLOURS),
    (SIZE_WORDS, SIZES),
    (POSITION_PHRASES, POSITIONS),
    (RELATION_PHRASES, RELATIONS),
    (BACKGROUND_WORDS, BACKGROUNDS),
):
    assert set(_words) == set(_things)
