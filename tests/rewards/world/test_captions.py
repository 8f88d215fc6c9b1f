"""The caption grammar: captions parse to their scenes, and any other text can be parsed too."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.world.captions import (
    BACKDROPS,
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    HIGH,
    LOW,
    POSITION_PHRASES,
    RELATION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    STYLE_WORDS,
    ItemSpec,
    Spec,
    caption,
    holds,
    parse_prompt,
)
from rewards.world.claims import check_claims
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene, Style
from rewards.world.training import data
from rewards.world.vision import detect_objects

STYLE = {word: axis for axis, kinds in STYLE_WORDS.items() for words in kinds for word in words}
ANY_STYLE_WORD = re.compile(r"\b(?:" + "|".join(STYLE) + r")\b")


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [Scene.random(rng, "any") for _ in range(count)]


@pytest.mark.parametrize("style", [0.0, 1.0])
def test_a_full_caption_parses_to_its_scene(style: float) -> None:
    rng = np.random.default_rng(1)
    for scene in scenes(2000):
        text = caption(rng, scene, style=style, detail=1.0)
        assert parse_prompt(text) == Spec.of(scene), text


def test_a_caption_of_any_detail_is_true_and_names_shape_and_colour() -> None:
    rng = np.random.default_rng(2)
    named = dict.fromkeys(("size", "position", "background", "relation"), 0)
    for scene in scenes(1500):
        text = caption(rng, scene, detail=0.5)
        claimed, full = parse_prompt(text), Spec.of(scene)
        assert len(claimed.items) == len(full.items), text
        for item, true in zip(claimed.items, full.items, strict=True):
            assert (item.shape, item.colour) == (true.shape, true.colour), text
            assert item.size in (None, true.size), text
            assert item.position in (None, true.position), text
        assert claimed.background in (None, full.background), text
        assert claimed.relation in (None, full.relation), text
        named["size"] += claimed.items[0].size is not None
        named["position"] += claimed.items[0].position is not None
        named["background"] += claimed.background is not None
        named["relation"] += claimed.relation is not None
    assert 0.4 < named["size"] / 1500 < 0.6
    assert 0.4 < named["background"] / 1500 < 0.6
    assert 0.4 < named["position"] / (1500 * 0.7) < 0.6
    assert 0.35 < named["relation"] / (1500 * 0.3) < 0.65


def test_captions_use_every_phrase_of_every_table() -> None:
    rng = np.random.default_rng(3)
    corpus = "\n".join(caption(rng, scene, style=1.0, detail=1.0) for scene in scenes(4000))
    tables = (
        SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS, BACKGROUND_WORDS, POSITION_PHRASES, RELATION_PHRASES,
    )  # fmt: skip
    phrases = [phrase for table in tables for words in table.values() for phrase in words]
    assert not [phrase for phrase in (*phrases, *STYLE, *BACKDROPS) if phrase not in corpus]


@pytest.mark.parametrize(
    ("text", "item", "background"),
    [
        ("a tiny scarlet disk in the upper left, GRAY backdrop", "small red circle top left", "grey"),
        ("A big golden  box\non the right side, beige background.", "large yellow square right", "sand"),
        (
            "little turquoise hoop at the bottom right, dark blue backdrop",
            "small cyan ring bottom right",
            "navy",
        ),
        ("HUGE violet plus sign in the center; white background", "large purple cross centre", "white"),
        ("a medium-sized magenta dot on top, black backdrop", "medium pink circle top", "black"),
    ],
)
def test_synonyms_are_parsed_in_any_case_and_spacing(text: str, item: str, background: str) -> None:
    size, colour, shape, position = item.split(" ", 3)
    assert parse_prompt(text) == Spec((ItemSpec(shape, colour, size, position),), background)


def test_dark_blue_is_navy_as_a_background_and_blue_on_an_object() -> None:
    assert parse_prompt("a red star on a dark blue background") == Spec((ItemSpec("star", "red"),), "navy")
    assert parse_prompt("on a dark blue background, a star") == Spec((ItemSpec("star"),), "navy")
    assert parse_prompt("a dark blue star on a white backdrop") == Spec((ItemSpec("star", "blue"),), "white")


def test_the_longest_phrase_wins() -> None:
    assert parse_prompt("a ring at the top left").items == (ItemSpec("ring", position="top left"),)
    assert parse_prompt("a ring on the left side of a page").items == (ItemSpec("ring", position="left"),)
    assert parse_prompt("a ring to the left of a star").relation == "left of"
    assert parse_prompt("a startled squarely boxed reddish ringing") == Spec(())


def test_adjectives_and_positions_belong_to_their_object() -> None:
    spec = parse_prompt(
        "a big red square on the left and a tiny ring in the lower right on a grey background"
    )
    assert spec.items == (
        ItemSpec("square", "red", "large", "left"),
        ItemSpec("ring", None, "small", "bottom right"),
    )
    assert parse_prompt("at the top, a green cross").items == (ItemSpec("cross", "green", position="top"),)


def test_a_relation_needs_exactly_two_objects() -> None:
    assert parse_prompt("a red ring above a star").relation == "above"
    assert parse_prompt("above it a red ring and a star").relation is None
    assert parse_prompt("a ring over a star over a box").relation is None
    assert parse_prompt("clouds over a ring").relation is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "中文 🦊 \x00 \u202e",
        "a photo of an astronaut riding a horse, 4k, trending on artstation",
        "Supreme Court Justices play a baseball game with the FBI. The justices are on the field.",
    ],
)
def test_a_text_without_shapes_and_backgrounds_claims_nothing(text: str) -> None:
    assert parse_prompt(text) == Spec(())


@settings(deadline=None, max_examples=150, database=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.sampled_from([*COLOUR_WORDS, *SIZE_WORDS, *SHAPE_WORDS, "above", "on top", "background"]),
        ),
        max_size=12,
    ).map(" ".join)
)
def test_any_text_parses_to_known_names(text: str) -> None:
    spec = parse_prompt(text)
    assert spec.background in (None, *BACKGROUND_WORDS)
    assert spec.relation is None or (spec.relation in RELATION_PHRASES and len(spec.items) == 2)
    for item in spec.items:
        assert item.shape in SHAPE_WORDS
        assert item.colour in (None, *COLOUR_WORDS)
        assert item.size in (None, *SIZE_WORDS)
        assert item.position in (None, *POSITION_PHRASES)


def test_style_is_named_with_the_given_probability() -> None:
    rng = np.random.default_rng(4)
    sampled = scenes(1000)

    def share(quality: float, style: float) -> float:
        shown = [replace(scene, style=Style(quality, quality, quality, quality)) for scene in sampled]
        return float(np.mean([bool(ANY_STYLE_WORD.search(caption(rng, s, style=style))) for s in shown]))

    for quality in (0.1, 0.9):  # quality makes no difference
        assert share(quality, 0.0) == 0
        assert share(quality, 0.35) == pytest.approx(0.35, abs=0.05)
        assert share(quality, 1.0) == 1


def test_a_good_style_can_be_named_more_often_so_that_plain_captions_are_of_mediocre_images() -> None:
    rng = np.random.default_rng(7)
    sampled = scenes(4000)

    def plain(good_style: float | None) -> list[float]:
        """Means of the named axes of images with plain captions."""
        texts = [caption(rng, scene, style=0.4, good_style=good_style) for scene in sampled]
        return [
            (scene.style.saturation + scene.style.shading) / 2
            for scene, text in zip(sampled, texts, strict=True)
            if not ANY_STYLE_WORD.search(text)
        ]

    usual, mediocre = np.array(plain(None)), np.array(plain(0.85))
    assert (usual > 0.75).mean() > 0.025
    assert (mediocre > 0.75).mean() < 0.02
    assert mediocre.mean() < usual.mean() - 0.025


def test_style_words_are_true_and_a_medium_style_has_none() -> None:
    rng = np.random.default_rng(5)
    for scene in scenes(1500):
        for word in ANY_STYLE_WORD.findall(caption(rng, scene, style=1.0)):
            value = getattr(scene.style, STYLE[word])
            low, high = STYLE_WORDS[STYLE[word]]
            assert (word in low and value < LOW) or (word in high and value > HIGH), (word, scene.style)
    medium = [replace(scene, style=Style(0.5, 0.5, 0.5, 0.5)) for scene in scenes(200)]
    assert not any(ANY_STYLE_WORD.search(caption(rng, scene, style=1.0)) for scene in medium)


def test_style_words_claim_nothing() -> None:
    words = list(STYLE)
    for first, second in product(words, words):
        text = f"{first}, {second} picture of a red star on a sand background"
        assert parse_prompt(text) == Spec((ItemSpec("star", "red"),), "sand")


def test_articles_are_correct() -> None:
    rng = np.random.default_rng(6)
    for scene in scenes(500):
        text = caption(rng, scene)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


def test_a_text_is_reserved_only_if_it_names_shape_colour_and_background() -> None:
    for scene in scenes(500):
        full = Spec.of(scene)
        assert full.reserved() == scene.reserved()
        assert not replace(full, background=None).reserved()
        assert not replace(full, items=tuple(replace(i, colour=None) for i in full.items)).reserved()


DISC = Item("circle", "red", "small", 16.0, 32.0, 11.0)
BOX = Item("square", "blue", "medium", 48.0, 32.0, 15.0)
PAIR = Scene((DISC, BOX), "sand", Style(0.9, 0.1, 0.5, 0.5), "left of")
SINGLE = Scene((replace(DISC, position="left"),), "sand", Style(0.2, 0.5, 0.9, 0.9))


@pytest.mark.parametrize(
    "text",
    [
        "a small red circle to the left of a medium blue square on a sand background",
        "a medium blue square right of a small red circle",
        "a blue box and a red dot against a beige backdrop",
        "a square and a circle",
        "vivid, flat picture of a red circle and a square",
        "a red circle and a blue square, vibrant",
    ],
)
def test_a_caption_holds_if_all_that_it_says_is_true_in_any_order(text: str) -> None:
    assert holds(text, PAIR)


@pytest.mark.parametrize(
    "text",
    [
        "a blue square to the left of a red circle",
        "a red circle above a blue square",
        "a blue circle and a red square",
        "a medium red circle and a small blue square",
        "a red circle and a blue square on a white background",
        "a red circle and a red circle",
        "a red circle on a sand background",
        "a red circle, a blue square and a green ring",
        "dull picture of a red circle and a blue square",
        "a red circle and a blue square, glossy",
        "a red circle and a blue square, vivid, glossy",
    ],
)
def test_a_caption_does_not_hold_if_anything_is_false(text: str) -> None:
    assert not holds(text, PAIR)


def test_positions_and_medium_styles_are_checked() -> None:
    assert holds("a small red circle on the left", SINGLE)
    assert holds("dull picture of a red circle", SINGLE)
    assert not holds("a small red circle on the right", SINGLE)
    # Shading of 0.5 is neither flat nor shaded.
    assert not holds("a red circle, flat", SINGLE)
    assert not holds("a red circle, shaded", SINGLE)


def test_a_scenes_own_captions_hold() -> None:
    rng = np.random.default_rng(8)
    for scene in scenes(500):
        for detail in (0.5, 1.0):
            assert holds(caption(rng, scene, style=0.5, detail=detail), scene)


def test_image_analysis_agrees_on_which_captions_hold() -> None:
    """An independent check: the claims of a caption against the pixels of a render."""
    rng = np.random.default_rng(9)
    count = {True: 0, False: 0}
    for scene in data.random_scenes(rng, 60, pairs=0.6):
        detection = detect_objects(render(replace(scene, style=CLEAN)))
        described = data.near_miss(rng, scene, of=data.MISSES) if rng.random() < 0.7 else scene
        text = caption(rng, described, style=0.0, detail=0.6)
        true = all(claim.true for claim in check_claims(detection, text))
        assert holds(text, scene) == Spec.holds(parse_prompt(text), scene) == true, (text, scene)
        count[true] += 1
    assert min(count.values()) > 15
