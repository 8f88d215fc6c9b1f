"""Resolve the names of rewards to records and files, before work begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from benchmarks.systems import OPEN_REWARDS, WORLD_REWARDS
from leaderboards.records import ScoreSet
from rewards.info import RewardInfo
from rewards.registry import info, load
from rewards.weights.locate import content_id, locate_weights
from tcbench.errors import ProblemCollector

if TYPE_CHECKING:
    from rewards.base import Reward

SCORE_DTYPE = "float32"
"""Precision of all scores of runs. Half precision would give many images the same score."""

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
            "heldout": ("world-siglip", "world-blip", "world-vqa", "world-rule", "world-oracle"),
        },
    }
)
"""Names for several rewards, by the domain of the images.

"paper" are the rewards of the TextCraftor paper's tables, "default" those of the systems, and "heldout" those
of families that neither the training profiles optimise nor the recipes in docs/ select checkpoints by.
"""


def expand_presets(names: Sequence[str], domain: str) -> tuple[str, ...]:
    """Replace the names of presets with those of their rewards, and drop repetitions."""
    presets = PRESETS.get(domain, PRESETS["open"])
    return tuple(dict.fromkeys(reward for name in names for reward in presets.get(name, (name,))))


@dataclass(frozen=True)
class ResolvedReward:
    """A reward whose weights are on this machine."""

    info: RewardInfo
    score_set: ScoreSet
    """Description of its scores in a run folder."""
    files: Mapping[str, Path]
    """Paths of its weights, by key; `score_set.score_id` hashes their content."""

    def load(self, device: str) -> Reward:
        """Load the reward onto ``device``."""
        return load(self.info, device=device, weights=self.files)


def resolve_rewards(names: Iterable[str], *, fetch: bool = True) -> tuple[ResolvedReward, ...]:
    """Find the records and weights of rewards.

    Args:
        names: Names of rewards, or ``file.py:Name``.
        fetch: Download missing weights if the hub can be reached.

    Raises:
        UnknownName: If there is no such reward.
        MissingFiles: If weights cannot be found; `Problems` if several rewards cannot be used.
    """
    problems = ProblemCollector()
    records = [record for name in names if (record := problems.run(partial(info, name))) is not None]
    located = [problems.run(partial(locate_weights, record, fetch=fetch)) or {} for record in records]
    problems.raise_any()
    return tuple(
        ResolvedReward(record, _score_set(record, files), files)
        for record, files in zip(records, located, strict=True)
    )


def _score_set(info: RewardInfo, files: Mapping[str, Path]) -> ScoreSet:
    from rewards.backbones.processor import profile_of
    from rewards.base import score_id

    declared_as = info.declared_as  # hashes a reward file
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
            **({"declared_as": declared_as} if declared_as != info.name else {}),
            "weights": {
                file.key: f"{file.source} sha256:{content_id(file, files[file.key])}" for file in info.weights
            },
        },
    )
