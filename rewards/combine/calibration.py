"""What makes rewards comparable before they are summed: the mean and deviation of each on the same pictures.

A calibration is measured once, on the pictures that a named system drew for a pinned prompt set, and says so;
it holds for the very reward (its score id) it was measured with. Free of torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

WORLD = Path(__file__).resolve().parents[1] / "world" / "calibration.json"
"""Of the embedded world's rewards, on what its pipeline draws for its prompts."""


@dataclass(frozen=True)
class Measured:
    """One reward's scores on the pictures."""

    mean: float
    std: float
    count: int
    """Pictures that it could score."""
    score_id: str
    """`rewards.base.score_id` of the reward: weights, code, preprocessing, precision."""


@dataclass(frozen=True)
class Calibration:
    """The rewards' means and deviations, and the pictures they were measured on."""

    rewards: Mapping[str, Measured]
    suite: str
    suite_sha256: str
    """Of the prompts."""
    system: str
    generation_id: str
    """Of the pictures: weights, sampler, steps, guidance, size."""
    provenance: tuple[Mapping[str, Any], ...] = ()
    """The environments that drew and scored."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The calibration in a JSON file. Raises ValueError for a file that holds none."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["rewards"] = {name: Measured(**found) for name, found in values["rewards"].items()}
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no calibration ({error}); `tcbench calibrate RUN --out FILE` makes one"
            ) from error

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def of(self, name: str, score_id: str) -> Measured:
        """The reward's mean and deviation. Raises ValueError if it has none, or those of another version."""
        if name not in self.rewards:
            raise ValueError(
                f"the calibration on {self.suite} has no {name}, only {', '.join(self.rewards)}; score a run "
                "with it and calibrate again"
            )
        found = self.rewards[name]
        if found.score_id != score_id:
            raise ValueError(
                f"the calibration of {name} is of its version {found.score_id}, this one is {score_id}; "
                "score a run with it and calibrate again"
            )
        return found


def find_calibration(name: str) -> tuple[Path, Calibration]:
    """The file of the "world"'s calibration, or that of this name, and what it holds. Raises ValueError."""
    path = WORLD if name == "world" else Path(name).expanduser()
    return path, Calibration.read(path)
