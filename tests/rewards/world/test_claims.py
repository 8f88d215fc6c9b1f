"""Claims: judged one by one, with objects matched to the text whatever their order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rewards.world.claims import Answer, answers
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene
from rewards.world.vision import Seen, Sight, look

DISC = Item("circle", "red", "small", 16.0, 32.0, 10.0)
BOX = Item("square", "blue", "medium", 48.0, 32.0, 14.5)
PAIR = "a small red circle to the left of a medium blue square on a sand background"


def sight(*items: Item, background: str = "sand") -> Sight:
    return look(render(Scene(items, background, CLEAN)))


def false(found: list[Answer]) -> list[tuple[str, str]]:
    return [(answer.kind, answer.claim) for answer in found if not answer.true]


def test_all_claims_of_a_true_prompt_hold_and_come_in_reading_order() -> None:
    found = answers(sight(DISC, BOX), PAIR)
    assert not false(found)
    assert [(answer.kind, answer.claim) for answer in found] == [
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
def test_what_is_wrong_is_found_and_nothing_else(prompt: str, wrong: list[tuple[str, str]]) -> None:
    assert false(answers(sight(DISC, BOX), prompt)) == wrong


def test_colours_are_bound_to_their_shapes() -> None:
    """Both colours and both shapes are there, but whichever way they are matched, one kind is wrong."""
    wrong = false(answers(sight(DISC, BOX), "a red square and a blue circle"))
    assert [kind for kind, _ in wrong] in (["object", "object"], ["colour", "colour"])


def test_a_missing_second_object_fails_all_its_claims() -> None:
    found = answers(sight(DISC), PAIR)
    assert false(found) == [
        ("count", "2 object(s)"), ("object", "square"), ("colour", "blue"), ("size", "medium"),
        ("relation", "left of"),
    ]  # fmt: skip


def test_an_object_that_no_one_asked_for_fails_the_count_alone() -> None:
    assert false(answers(sight(DISC, BOX), "a blue square on a sand background")) == [
        ("count", "1 object(s)")
    ]


def test_an_empty_picture_fails_everything_but_the_background() -> None:
    empty = Sight("sand", ())
    assert [answer.kind for answer in answers(empty, PAIR) if answer.true] == ["background"]


def test_the_order_of_objects_does_not_matter() -> None:
    seen = sight(DISC, BOX)
    turned = replace(seen, objects=seen.objects[::-1])
    mirrored = "a medium blue square to the right of a small red circle on a sand background"
    for prompt in (PAIR, mirrored, PAIR.replace("red", "pink"), "a square and a ring"):
        assert answers(turned, prompt) == answers(seen, prompt)
    assert not false(answers(seen, mirrored))


@pytest.mark.parametrize(
    ("dx", "dy", "holds"), [(-8, 0, True), (-4, 0, False), (-8, 9, False), (8, 0, False)]
)
def test_a_relation_holds_where_the_offset_is_clear_and_mostly_in_its_direction(
    dx: float, dy: float, holds: bool
) -> None:
    first = Seen("star", "red", "small", "centre", 32 + dx, 32 + dy, 20)
    second = Seen("ring", "blue", "small", "centre", 32, 32, 20)
    found = answers(Sight("white", (first, second)), "a red star left of a blue ring")
    assert [answer.true for answer in found if answer.kind == "relation"] == [holds]


def test_of_two_alike_the_one_that_fits_best_is_meant() -> None:
    left, right = replace(DISC, x=14.0), replace(DISC, x=50.0, radius=14.5)
    found = answers(sight(left, right), "a medium red circle on the right")
    assert false(found) == [("count", "1 object(s)")]


def test_of_many_objects_named_most_claims_come_true() -> None:
    """In no time, though their matchings are more than could be tried one by one."""
    prompt = " and ".join(["a red ring"] * 5 + ["a medium red circle"] + ["a blue star"] * 8)
    found = answers(sight(DISC, replace(BOX, shape="star")), prompt)
    objects = [answer for answer in found if answer.kind == "object"]
    assert [answer.claim for answer in objects if answer.true] == ["circle", "star"]


def test_a_prompt_without_claims_gets_none_and_a_background_alone_is_one() -> None:
    assert answers(sight(DISC), "an astronaut riding a horse") == []
    assert answers(sight(DISC), "nothing on a sand backdrop") == [Answer("background", "sand", True)]
    assert answers(sight(DISC), "nothing on a black backdrop") == [Answer("background", "black", False)]
