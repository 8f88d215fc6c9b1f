"""What is known of a reward model before it is loaded. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["trainable", "selection", "judge"]
"""What a reward may be used for: to train on, only to choose checkpoints by, or only to report."""

Use = Literal["training", "selection"]
"""What a tuner does with a reward: maximise it, or choose a checkpoint by it."""

ALLOWED: Mapping[Use, tuple[Role, ...]] = {
    "training": ("trainable",),
    "selection": ("trainable", "selection"),
}


PUBLISHED = "published"
"""The profile of a reward whose weights "backbone", a folder, say how an image becomes their input."""

CONSENT = "TCBENCH_ACCEPT_LICENCES"
"""Environment variable with the licences that its owner accepts, separated by commas."""


class LicenceNotAccepted(ValueError):
    """A reward that must not be loaded before its licence is accepted in words."""


class WrongRole(ValueError):
    """A reward that is to be used for what its role forbids."""


@dataclass(frozen=True)
class WeightsFile:
    """One file, or one folder of files, that a reward needs, and where it comes from.

    It lies in this package (``package``, a path below ``rewards/``), at a ``path`` on this machine, in a hub
    repository (``hub``), or at ``url``. With ``patterns`` it is a folder and these are the files needed of
    it; with ``layouts`` it is a folder that has one of these sets of patterns; else it is ``file``.
    """

    key: str
    """What the reward calls it: "checkpoint", "backbone", "head", "tokenizer"."""
    file: str = ""
    patterns: tuple[str, ...] = ()
    layouts: tuple[tuple[str, ...], ...] = ()
    """The first that the folder has whole is the one that is used."""
    package: str = ""
    path: str = ""
    hub: str = ""
    revision: str = "main"
    url: str = ""
    sha256: str = ""
    """Of the file, where known; checked before it is loaded."""
    megabytes: float = 0
    quick_gelu: bool = False
    """The folder's configuration must ask for OpenAI's GELU: without it these weights load, and see nothing
    as they should."""

    @property
    def sets(self) -> tuple[tuple[str, ...], ...]:
        """The sets of patterns of which a folder needs one; none if this is a file."""
        return self.layouts or ((self.patterns,) if self.patterns else ())

    @property
    def title(self) -> str:
        """The file's name, or the names of the folder's files."""
        return self.file or ", ".join(self.patterns) or "a model's folder"


@dataclass(frozen=True)
class RewardInfo:
    """The record of a reward model. Only the name is required of a reward of one's own."""

    name: str
    entry: str = ""
    """Its class, "module:Class"; `register` fills this in."""
    higher_is_better: bool = True
    differentiable: bool = True
    """Gradients of the score reach the images."""
    uses_prompt: bool = True
    role: Role = "trainable"
    family: str = "custom"
    """Rewards of one family share a backbone, their first weights or their data, so they err alike."""
    profile: str = "raw"
    """How an image becomes the model's input: a name in `rewards.preprocess.PROFILES`, or `PUBLISHED`."""
    scale: str = ""
    """What a score means."""
    typical_range: tuple[float, float] = (0.0, 1.0)
    weights: tuple[WeightsFile, ...] = ()
    options: Mapping[str, str | float | int | bool] = field(default_factory=dict, hash=False)
    """What the class needs to know to be this reward, such as the convention of a score."""
    code: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Version of the code of a reward without weights, by source file: an opaque text, part of the score id.
    Change it whenever a change of the code changes a score."""
    paper: str = ""
    citation: str = ""
    licence: str = "unknown"
    consent: str = ""
    """A licence that must be accepted in words, in `CONSENT`, before the reward is loaded."""


def check_consent(record: RewardInfo) -> None:
    """Raises `LicenceNotAccepted` for a reward whose licence must be accepted and is not."""
    accepted = {name.strip() for name in os.environ.get(CONSENT, "").split(",")}
    if record.consent and record.consent not in accepted:
        raise LicenceNotAccepted(
            f"{record.name} is under the {record.consent} licence, which can bind what you build with it; "
            f"if you accept that, set {CONSENT}={record.consent}"
        )


def check_role(record: RewardInfo, use: Use, *, ablation: bool = False) -> None:
    """Refuse to train on, or to select by, a reward that is kept to judge the result.

    Raises `WrongRole` unless the role allows the use or it is said to be an ablation.
    """
    if not ablation and record.role not in ALLOWED[use]:
        raise WrongRole(
            f"{record.name} has the role {record.role!r} and is no reward for {use}: a result tuned to it "
            f"could not be judged by it; take one with the role {' or '.join(ALLOWED[use])}, or say that "
            "this is an ablation"
        )
