"""Rewards as columns of a run: found and checked before work begins, loaded when needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from benchmarks.systems import OPEN_REWARDS, WORLD_REWARDS
from leaderboards.records import ScoreSet
from rewards.info import RewardInfo
from rewards.registry import info, load
from rewards.weights.locate import locate_weights, weights_provenance
from tcbench.errors import ProblemCollector, UnknownName

if TYPE_CHECKING:
    from rewards.base import Reward

SCORE_DTYPE = "float32"

PRESETS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "open": {
            "paper": ("aesthetic-v2", "pickscore", "hpsv2"),
            "default": OPEN_REWARDS,
            "heldout": ("imagereward", "vqascore"),
        },
        "world": {
            "paper": ("world-aesthetic", "world-pick", "world-hps"),
            "default": WORLD_REWARDS,
            "heldout": ("world-siglip", "world-blip", "world-rule", "world-oracle"),
        },
    }
)
"""Several rewards under one name, by what the images can show: those of the TextCraftor paper's tables, a
system's own, and those of no family that the named training profiles optimise
or the recipes in docs/ choose checkpoints by.
"""


def expanded(names: Sequence[str], domain: str) -> list[str]:
    """The names with those of presets in place of them, each once."""
    known = PRESETS.get(domain, PRESETS["open"])
    return list(dict.fromkeys(one for name in names for one in known.get(name, (name,))))


@dataclass(frozen=True)
class Column:
    """A reward and the record that names its scores."""

    info: RewardInfo
    record: ScoreSet
    files: Mapping[str, Path]
    """The weights that the record was made of, by key."""

    def load(self, device: str) -> Reward:
        """The reward, ready to score on `device`."""
        return load(self.info, device=device, weights=self.files)


def find_columns(names: Iterable[str], *, fetch: bool = True) -> tuple[Column, ...]:
    """The named rewards, whose weights are downloaded if `fetch` and the hub can be reached.

    Raises UnknownName, MissingFiles, or Problems where several cannot be used.
    """
    found = [info(name) for name in names]
    problems = ProblemCollector()
    located = [problems.run(partial(locate_weights, record, fetch=fetch)) or {} for record in found]
    problems.raise_any()
    return tuple(
        Column(record, score_set(record, files), files) for record, files in zip(found, located, strict=True)
    )


def families(names: Iterable[str]) -> list[str]:
    """The families of the named rewards, without those of rewards that are not known here."""
    found = set()
    for name in names:
        with suppress(UnknownName):
            found.add(info(name).family)
    return sorted(found)


def score_set(info: RewardInfo, files: Mapping[str, Path]) -> ScoreSet:
    """The record of the column: which reward, from which weights, and the id of what its scores depend on."""
    from rewards.backbones.processor import profile_of
    from rewards.base import score_id

    return ScoreSet(
        reward=info.name,
        score_id=score_id(info, SCORE_DTYPE, files),
        higher_is_better=info.higher_is_better,
        role=info.role,
        family=info.family,
        details={
            "paper": info.paper,
            "licence": info.licence,
            "profile": profile_of(info, files).name,
            "scale": info.scale,
            "weights": weights_provenance(info, files),
        },
    )
