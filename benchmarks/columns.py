"""Rewards as columns of a run: found and checked before work begins, loaded when needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.info import RewardInfo
from rewards.registry import info
from rewards.weights import check

from leaderboards.records import ScoreSet
from rewards import load

if TYPE_CHECKING:
    from rewards.base import Reward

SCORE_DTYPE = "float32"


@dataclass(frozen=True)
class Column:
    """A reward and the record that names its scores. `name` is what the user wrote, such as file.py:Name."""

    name: str
    info: RewardInfo
    record: ScoreSet

    def load(self, device: str) -> Reward:
        """The reward, ready to score on `device`."""
        return load(self.name).to(device)


def find_columns(names: Iterable[str]) -> tuple[Column, ...]:
    """The named rewards. Raises UnknownName or MissingWeights, for the first one that cannot be used."""
    found = [(name, info(name)) for name in names]
    for _, record in found:
        locate(record)
    return tuple(Column(name, record, score_set(record)) for name, record in found)


def locate(info: RewardInfo) -> Mapping[str, Path]:
    """Where the reward's weights are. Raises MissingWeights, which says how to point at a local copy."""
    return check(info)


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
