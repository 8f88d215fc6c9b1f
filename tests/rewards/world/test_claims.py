"""Claims: each is checked, with objects matched to the prompt in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rewards.world.claims import _CheckedClaim, check_claims
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene
from rewards.world.vision import DetectedObject, Detection, detect_objects

DISC = Item("circle", "red", "small", 16.0, 32.0, 10.0)
BOX = Item("square", "blue", "medium", 48.0, 32.0, 14.5)
PAIR = "a small red circle to the left of a medium blue square on a sand background"


def detect(*items: Item, background: str = "sand") -> Detection:
    return detect_objects(render(Scene(items, background, CLEAN)))


def false(claims: list[_CheckedClaim]) -> list[tuple[str, str]]:
    return [(claim.kind, claim.claim) for claim in claims if not claim.true]


def test_all_claims_of_a_true_prompt_are_true_and_in_the_documented_order() -> None:
    claims = check_claims(detect(DISC, BOX), PAIR)
    assert not false(claims)
    assert [(claim.kind, claim.claim) for claim in claims] == [
        ("count", "2 object(s)"),
        ("object", "circle"), ("colour", "red"), ("size", "small"),
        ("object", "square"), ("colour", "blue"), ("size", "medium"),
        ("relation", "left of"),
        ("background", "sand"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        (PAIR.replace("circle", "star"), [("object", "star")]),
        (PAIR.replace("blue", "green"), [("colour", "green")]),
        (PAIR.replace("medium", "large"), [("size", "large")]),
        (PAIR.replace("left", "right"), [("relation", "right of")]),
        (PAIR.replace("to the left of", "above"), [("relation", "above")]),
        (PAIR.replace("sand", "navy"), [("background", "navy")]),
        (PAIR.replace(" on a sand", " in the centre on a sand"), [("position", "centre")]),
        (PAIR + ", and a green ring", [("count", "3 object(s)"), ("object", "ring"), ("colour", "green")]),
    ],
)
def test_only_the_wrong_claims_are_false(prompt: str, wrong: list[tuple[str, str]]) -> None:
    assert false(check_claims(detect(DISC, BOX), prompt)) == wrong


def test_colours_are_bound_to_their_shapes() -> None:
    """Both colours and both shapes are there, but in either match one kind is wrong."""
    wrong = false(check_claims(detect(DISC, BOX), "a red square and a blue circle"))
    assert [kind for kind, _ in wrong] in (["object", "object"], ["colour", "colour"])


def test_all_claims_about_a_missing_object_are_false() -> None:
    claims = check_claims(detect(DISC), PAIR)
    assert false(claims) == [
        ("count", "2 object(s)"), ("object", "square"), ("colour", "blue"), ("size", "medium"),
        ("relation", "left of"),
    ]  # fmt: skip


def test_with_an_extra_object_only_the_count_is_false() -> None:
    assert false(check_claims(detect(DISC, BOX), "a blue square on a sand background")) == [
        ("count", "1 object(s)")
    ]


def test_for_an_empty_image_only_the_background_is_true() -> None:
    empty = Detection("sand", ())
    assert [claim.kind for claim in check_claims(empty, PAIR) if claim.true] == ["background"]


def test_the_order_of_objects_does_not_matter() -> None:
    detection = detect(DISC, BOX)
    reversed_ = replace(detection, objects=detection.objects[::-1])
    mirrored = "a medium blue square to the right of a small red circle on a sand background"
    for prompt in (PAIR, mirrored, PAIR.replace("red", "pink"), "a square and a ring"):
        assert check_claims(reversed_, prompt) == check_claims(detection, prompt)
    assert not false(check_claims(detection, mirrored))


@pytest.mark.parametrize(
    ("dx", "dy", "holds"), [(-8, 0, True), (-4, 0, False), (-8, 9, False), (8, 0, False)]
)
def test_a_relation_needs_a_clear_offset_mostly_in_its_direction(dx: float, dy: float, holds: bool) -> None:
    first = DetectedObject("star", "red", "small", "centre", 32 + dx, 32 + dy, 20)
    second = DetectedObject("ring", "blue", "small", "centre", 32, 32, 20)
    claims = check_claims(Detection("white", (first, second)), "a red star left of a blue ring")
    assert [claim.true for claim in claims if claim.kind == "relation"] == [holds]


def test_of_two_similar_objects_the_best_match_is_used() -> None:
    left, right = replace(DISC, x=14.0), replace(DISC, x=50.0, radius=14.5)
    claims = check_claims(detect(left, right), "a medium red circle on the right")
    assert false(claims) == [("count", "1 object(s)")]


def test_many_named_objects_are_matched_quickly_and_best() -> None:
    """The possible matches are too many to try one by one."""
    prompt = " and ".join(["a red ring"] * 5 + ["a medium red circle"] + ["a blue star"] * 8)
    claims = check_claims(detect(DISC, replace(BOX, shape="star")), prompt)
    objects = [claim for claim in claims if claim.kind == "object"]
    assert [claim.claim for claim in objects if claim.true] == ["circle", "star"]


def test_a_prompt_can_have_no_claims_or_a_background_alone() -> None:
    assert check_claims(detect(DISC), "an astronaut riding a horse") == []
    assert check_claims(detect(DISC), "nothing on a sand backdrop") == [
        _CheckedClaim("background", "sand", True)
    ]
    assert check_claims(detect(DISC), "nothing on a black backdrop") == [
        _CheckedClaim("background", "black", False)
    ]
