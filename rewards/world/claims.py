"""Claims that a prompt makes, each checked against the content of an image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.optimize import linear_sum_assignment

from rewards.world.captions import ItemSpec, Spec, parse_prompt
from rewards.world.scenes import RELATIONS
from rewards.world.vision import DetectedObject, Detection


@dataclass(frozen=True)
class _CheckedClaim:
    """A claim of a prompt, and whether it is true of an image."""

    kind: str
    """"count", "object", "colour", "size", "position", "relation" or "background"."""
    claim: str
    """The claimed value, such as "red"."""
    true: bool


def check_claims(detection: Detection, prompt: str | Spec) -> list[_CheckedClaim]:
    """Check each claim of a prompt against the content of an image.

    The prompt's objects are matched with those of the image such that the number of true claims is greatest.

    Returns:
        The claims in order: count; object, colour, size and position of each object; relation; background.
        Empty if the prompt claims nothing about this world.
    """
    spec = parse_prompt(prompt) if isinstance(prompt, str) else prompt
    if not spec.items:
        return _background_claims(detection, spec)
    claims = _scene_claims(spec, _match(spec, detection))
    count = _CheckedClaim("count", f"{len(spec.items)} object(s)", len(detection.objects) == len(spec.items))
    return [count, *claims, *_background_claims(detection, spec)]


Match = tuple[DetectedObject | None, ...]
"""The detected object of each object of a prompt, None if there are too few."""


def _match(spec: Spec, detection: Detection) -> Match:
    """Match the prompt's objects with detected ones such that the number of true claims is greatest."""
    # One detected object more than the prompt has: enough to be fair to an image with a stray region, few
    # enough that a cluttered image cannot find a fit for every claim.
    detected: list[DetectedObject | None] = list(detection.objects[: len(spec.items) + 1])
    detected += [None] * (len(spec.items) - len(detected))
    if spec.relation is not None:  # it depends on both objects at once, so try all pairs; there are at most 6
        return max(permutations(detected, 2), key=lambda match: _true_count(_scene_claims(spec, match)))
    true = np.array([[_true_count(_item_claims(item, one)) for one in detected] for item in spec.items])
    return tuple(detected[column] for column in linear_sum_assignment(true, maximize=True)[1])


def _true_count(claims: list[_CheckedClaim]) -> int:
    return sum(claim.true for claim in claims)


def _background_claims(detection: Detection, spec: Spec) -> list[_CheckedClaim]:
    if spec.background is None:
        return []
    return [_CheckedClaim("background", spec.background, detection.background == spec.background)]


def _scene_claims(spec: Spec, match: Match) -> list[_CheckedClaim]:
    """Claims about objects and their relation."""
    claims = [
        claim
        for item, detected in zip(spec.items, match, strict=True)
        for claim in _item_claims(item, detected)
    ]
    if spec.relation is not None:
        first, second = match[0], match[1]
        holds = first is not None and second is not None and _relation_holds(spec.relation, first, second)
        claims.append(_CheckedClaim("relation", spec.relation, holds))
    return claims


def _item_claims(item: ItemSpec, detected: DetectedObject | None) -> list[_CheckedClaim]:
    claims = [_CheckedClaim("object", item.shape, detected is not None and detected.shape == item.shape)]
    for kind in ("colour", "size", "position"):
        value = getattr(item, kind)
        if value is not None:
            claims.append(
                _CheckedClaim(kind, value, detected is not None and getattr(detected, kind) == value)
            )
    return claims


def _relation_holds(relation: str, first: DetectedObject, second: DetectedObject) -> bool:
    """Return whether the centres are at least 6 pixels apart in the relation's direction and less across."""
    column, row = RELATIONS[relation]
    across, down = first.x - second.x, first.y - second.y
    along, aside = across * column + down * row, abs(across * row) + abs(down * column)
    return along >= 6.0 and along > aside
