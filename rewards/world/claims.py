"""Claims: what a prompt says of a picture, and which of it a picture makes true."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.optimize import linear_sum_assignment

from rewards.world.captions import ItemSpec, Spec, read
from rewards.world.scenes import RELATIONS
from rewards.world.vision import Seen, Sight


@dataclass(frozen=True)
class Answer:
    """One claim of a prompt (its kind and its words) and whether the picture makes it true."""

    kind: str
    claim: str
    true: bool


def answers(sight: Sight, prompt: str | Spec) -> list[Answer]:
    """Judge each claim of a prompt.

    In order: count; object, colour, size and position of each object; relation; background.

    The objects named are matched to the objects seen so that most claims come true. An empty list means
    that the prompt claims nothing about this world.
    """
    spec = read(prompt) if isinstance(prompt, str) else prompt
    if not spec.items:
        return _background(sight, spec)
    best = _judge(spec, _match(spec, sight))
    count = Answer("count", f"{len(spec.items)} object(s)", len(sight.objects) == len(spec.items))
    return [count, *best, *_background(sight, spec)]


def _match(spec: Spec, sight: Sight) -> tuple[Seen | None, ...]:
    """For each object named, the object seen or None, so that most claims come true."""
    seen: list[Seen | None] = list(sight.objects[: len(spec.items) + 1])
    seen += [None] * (len(spec.items) - len(seen))
    if spec.relation is not None:  # of two objects: the relation depends on both, and the pairs are few
        return max(permutations(seen, 2), key=lambda match: _count(_judge(spec, match)))
    true = np.array([[_count(_judge_item(item, one)) for one in seen] for item in spec.items])
    return tuple(seen[column] for column in linear_sum_assignment(true, maximize=True)[1])


def _count(found: list[Answer]) -> int:
    return sum(answer.true for answer in found)


def _background(sight: Sight, spec: Spec) -> list[Answer]:
    if spec.background is None:
        return []
    return [Answer("background", spec.background, sight.background == spec.background)]


def _judge(spec: Spec, match: tuple[Seen | None, ...]) -> list[Answer]:
    found = [
        answer for item, seen in zip(spec.items, match, strict=True) for answer in _judge_item(item, seen)
    ]
    if spec.relation is not None:
        first, second = match[0], match[1]
        holds = first is not None and second is not None and _relation_holds(spec.relation, first, second)
        found.append(Answer("relation", spec.relation, holds))
    return found


def _judge_item(item: ItemSpec, seen: Seen | None) -> list[Answer]:
    found = [Answer("object", item.shape, seen is not None and seen.shape == item.shape)]
    for kind in ("colour", "size", "position"):
        claimed = getattr(item, kind)
        if claimed is not None:
            found.append(Answer(kind, claimed, seen is not None and getattr(seen, kind) == claimed))
    return found


def _relation_holds(relation: str, first: Seen, second: Seen) -> bool:
    """The offset between the centres points mostly in the relation's direction, by at least 6 pixels."""
    column, row = RELATIONS[relation]
    across, down = first.x - second.x, first.y - second.y
    along, aside = across * column + down * row, abs(across * row) + abs(down * column)
    return along >= 6.0 and along > aside
