"""Rewards as columns of a run: found and checked before work begins, loaded when needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leaderboards.records import ScoreSet
from rewards.info import RewardInfo
from rewards.registry import info, load
from rewards.weights import check

if TYPE_CHECKING:
    from rewards.base import Reward

SCORE_DTYPE = "float32"


@dataclass(frozen=True)
class Column:
    """A reward and the record that names its scores."""

    info: RewardInfo
    record: ScoreSet

    def load(self, device: str) -> Reward:
        """The reward, ready to score on `device`."""
        return load(self.info, device=device)


def find_columns(names: Iterable[str], *, fetch: bool = True) -> tuple[Column, ...]:
    """The named rewards, whose weights are downloaded if `fetch` and the hub can be reached.

    Raises UnknownName or MissingWeights, for the first one that cannot be used.
    """
    found = [info(name) for name in names]
    for record in found:
        check(record, fetch=fetch)
    return tuple(Column(record, score_set(record)) for record in found)


def score_set(info: RewardInfo) -> ScoreSet:
    """The record of the column: which reward, and the id of what its scores depend on."""
    from rewards.base import score_id

    return ScoreSet(
        reward=info.name,
        score_id=score_id(info, SCORE_DTYPE),
        higher_is_better=info.higher_is_better,
        role=info.role,
        family=info.family,
        details={"paper": info.paper, "licence": info.licence, "profile": info.profile, "scale": info.scale},
    )
