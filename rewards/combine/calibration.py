"""Mean and standard deviation of each reward's scores on the same images, to make rewards comparable.

A calibration is measured once, on the images that one system generated for a fixed prompt set, and records
both. It is valid for exactly the versions of the rewards (their score ids) it was measured with. Free of
torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tcbench.errors import FileFormatError, MismatchError
from tcbench.files import write_atomically

WORLD_CALIBRATION = Path(__file__).resolve().parents[1] / "world" / "calibration.json"
"""Calibration of the embedded world's rewards, on images that its pipeline generated for its prompts."""


@dataclass(frozen=True)
class RewardStatistics:
    """One reward's scores on the images of a calibration."""

    mean: float
    std: float
    count: int
    """Number of images that the reward could score."""
    score_id: str
    """`rewards.base.score_id` of the reward: weights, code, preprocessing and precision."""


@dataclass(frozen=True)
class Calibration:
    """Statistics of several rewards, and the images they were measured on."""

    rewards: Mapping[str, RewardStatistics]
    """Statistics by reward name."""
    suite: str
    """Name of the suite whose images were scored."""
    suite_sha256: str
    """Hash of the suite's prompts."""
    system: str
    """Name of the system that generated the images."""
    generation_id: str
    """Id of how the images were generated: weights, sampler, steps, guidance, size."""
    provenance: tuple[Mapping[str, Any], ...] = ()
    """Environments in which images were generated and scored."""

    @staticmethod
    def path(source: str | Path) -> Path:
        """Return the file of the "world"'s calibration, or the given path with "~" expanded."""
        return WORLD_CALIBRATION if source == "world" else Path(source).expanduser()

    @classmethod
    def read(cls, source: str | Path) -> Self:
        """Read a calibration.

        Args:
            source: Path of a JSON file, or "world" for the embedded world's calibration.

        Raises:
            FileFormatError: If the file is not a calibration.
        """
        path = cls.path(source)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["rewards"] = {name: RewardStatistics(**row) for name, row in values["rewards"].items()}
            values["provenance"] = tuple(values.get("provenance", ()))
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileFormatError(
                f"{path} is not a calibration file ({error}); `tcbench calibrate RUN --out FILE` writes one"
            ) from error

    def write(self, path: Path) -> None:
        """Write the calibration as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    def covers(self, name: str, score_id: str) -> bool:
        """Return whether there are statistics of exactly this version of a reward."""
        return name in self.rewards and self.rewards[name].score_id == score_id

    def statistics(self, name: str, score_id: str) -> RewardStatistics:
        """Return the statistics of a reward.

        Args:
            name: The name in the reward's record, not the ``file.py:Class`` that it was loaded by.
            score_id: `rewards.base.score_id` of the loaded reward.

        Raises:
            MismatchError: If it has none, or if they are of another version than ``score_id``.
        """
        if name not in self.rewards:
            raise MismatchError(
                f"the calibration on {self.suite} has no {name}, only {MismatchError.listed(self.rewards)}; "
                "score a run with it and calibrate again"
            )
        statistics = self.rewards[name]
        if statistics.score_id != score_id:
            raise MismatchError(
                f"the calibration of {name} has the score id {statistics.score_id}, the loaded reward has "
                f"{score_id}; score a run with it and calibrate again"
            )
        return statistics
