"""Exposure of systems to rewards in training, groups of rewards, and claims of comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from leaderboards.board import Claim, Column, Entry, Exposure, Group
from leaderboards.stats import CLAIM_PROMPTS, LEVEL, Comparison, Estimate, holm
from tcbench.declarations import CUSTOM_REWARD


def exposure(entry: Entry, column: Column, columns: Iterable[Column]) -> Exposure:
    """Whether the system was trained on this reward, or on another reward of the same family.

    "undeclared" where that is not known: the system declares nothing, or an unknown reward.
    """
    if entry.trained_on is None:
        return "undeclared"
    if _is_declared(column, entry.trained_on):
        return "trained-on"
    families = {c.score_set.family for c in columns if _is_declared(c, entry.trained_on)}
    # Families of training rewards that are not on the board.
    families |= set(entry.run.header.details.get("trained_on_families", ()))
    custom = {match["name"] for name in entry.trained_on if (match := CUSTOM_REWARD.fullmatch(name))}
    # a custom reward of the same name from another file is probably another version of it
    if column.score_set.family in families or column.score_set.reward in custom:
        return "same-family"
    return "undeclared" if entry.unknown else "held-out"


def _is_declared(column: Column, names: Sequence[str]) -> bool:
    """Whether the column's reward is among declared training rewards, by its name or the hash of its file."""
    score_set = column.score_set
    return score_set.reward in names or score_set.details.get("declared_as") in names


def group(column: Column, entries: Iterable[Entry], columns: Sequence[Column]) -> Group:
    """Return the group of a column in a whole section.

    A reward is a judge, or held out, only if no system that declares its training rewards was trained on it
    or on another reward of its family: mean gains over these groups must be comparable between systems.
    Systems that declare nothing do not count, because they cannot be ranked.
    """
    if column.score_set.role == "human":
        return "human"
    exposures = {exposure(entry, column, columns) for entry in entries}
    if "trained-on" in exposures:
        return "trained-on"
    if "same-family" in exposures:
        return "same-family"
    return "judge" if column.score_set.role == "judge" else "held-out"


def claims(
    comparisons: Sequence[Comparison | None], higher_is_better: Sequence[bool]
) -> list[tuple[float, Claim | None]]:
    """Holm's p of each comparison over all of them, and what it claims; (NaN, None) for None."""
    adjusted = holm([compared.p if compared else math.nan for compared in comparisons])
    return [
        (p, _claim(compared.difference, p, higher) if compared else None)
        for compared, p, higher in zip(comparisons, adjusted, higher_is_better, strict=True)
    ]


def _claim(difference: Estimate, p: float, higher_is_better: bool) -> Claim:
    """A claim needs enough prompts, a small adjusted p and an interval that excludes zero."""
    if difference.n < CLAIM_PROMPTS:
        return "too few prompts"
    if p >= 1 - LEVEL or difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.value > 0) == higher_is_better else "worse"
