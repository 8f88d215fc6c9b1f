"""Records of reward models: what is known of a reward before it is loaded. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tcbench.declarations import CUSTOM_REWARD_FORMAT
from tcbench.errors import TcbenchError
from tcbench.files import sha256

Role = Literal["trainable", "selection", "judge"]
"""What a reward may be used for: training, checkpoint selection only, or reports only."""

Use = Literal["training", "selection"]
"""What a training run does with a reward: maximise it, or select a checkpoint by it."""

_ROLES_BY_USE: Mapping[Use, tuple[Role, ...]] = {
    "training": ("trainable",),
    "selection": ("trainable", "selection"),
}

PUBLISHED = "published"
"""Profile of a reward whose folder of weights, "backbone", says how to preprocess images."""

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Files of transformers with the settings of an image processor: of its own, as all versions can save it, and
that of a whole processor, as version 5 saves it."""

CONSENT_VARIABLE = "TCBENCH_ACCEPT_LICENCES"
"""Environment variable with the licences that the user accepts, separated by commas."""


class LicenceNotAccepted(TcbenchError):
    """A reward whose licence must be accepted explicitly before it is loaded."""


class WrongRole(TcbenchError):
    """A reward is used for something that its role forbids."""


@dataclass(frozen=True)
class WeightsFile:
    """A file, or a folder of files, that a reward needs, and its source.

    The source is one of ``package``, ``path``, ``hub`` and ``url``. With ``patterns`` it is a folder from
    which the matching files are needed; with ``layouts`` it may have one of these sets of patterns instead;
    with neither it is ``file``.
    """

    key: str
    """Name within the reward, such as "checkpoint", "backbone", "head" or "tokenizer"."""
    file: str = ""
    """File name, for a single file."""
    patterns: tuple[str, ...] = ()
    """Glob patterns of the needed files of a folder."""
    layouts: tuple[tuple[str, ...], ...] = ()
    """Alternative sets of patterns; the first that the folder has completely is used, ``patterns`` before
    them."""
    package: str = ""
    """Path in this package, below ``rewards/``."""
    path: str = ""
    """Path on this machine."""
    hub: str = ""
    """Repository "owner/name" on the Hugging Face hub."""
    revision: str = "main"
    """Commit, tag or branch of the repository."""
    url: str = ""
    """Pinned URL of a file."""
    sha256: str = ""
    """Published hash of the file, checked before it is loaded; empty if none is known."""
    megabytes: float = 0
    """Size of the download; 0 if unknown."""
    quick_gelu: bool = False
    """The configuration must ask for OpenAI's GELU; without it these weights load but score wrongly."""

    @property
    def sets(self) -> tuple[tuple[str, ...], ...]:
        """Sets of patterns of which a folder needs one; empty for a single file."""
        return ((self.patterns,) if self.patterns else ()) + self.layouts

    @property
    def title(self) -> str:
        """Name of the file, or names of the folder's files."""
        return self.file or ", ".join(self.patterns) or "a model's folder"

    @property
    def source(self) -> str:
        """Where the published weights come from: a path in this package, a hub revision, a path or a URL."""
        if self.package:
            return f"rewards/{self.package}"
        return f"{self.hub}@{self.revision}/{self.file}".rstrip("/") if self.hub else self.path or self.url

    def lock_key(self, path: str = "") -> str:
        """Return the name of the weights in the lock file: their source, or the ``path`` of a local copy."""
        origin = path or self.source
        # Two rewards may need other files of one folder, so a folder's entry names its files.
        return f"{origin} [{self.title}]" if self.sets else origin


@dataclass(frozen=True)
class RewardInfo:
    """Record of a reward model. A reward that you write needs only the name."""

    name: str
    """Name for `rewards.load`, `--rewards` and boards."""
    entry: str = ""
    """Class of the reward, "module:Class"; `register` fills it in."""
    higher_is_better: bool = True
    """Whether a higher score is better."""
    differentiable: bool = True
    """Whether gradients of the score reach the images."""
    uses_prompt: bool = True
    """Whether the score depends on the prompt."""
    role: Role = "trainable"
    """Permitted use: training, checkpoint selection, or judging only."""
    family: str = "custom"
    """Rewards of one family share a backbone, initial weights or training data, so their errors correlate."""
    profile: str = "raw"
    """Preprocessing of images: a name in `rewards.preprocess.PROFILES`, or `PUBLISHED`."""
    scale: str = ""
    """Meaning of a score."""
    typical_range: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest score to expect."""
    weights: tuple[WeightsFile, ...] = ()
    """Files that the reward needs."""
    options: Mapping[str, str | float | int | bool] = field(default_factory=dict, hash=False)
    """Settings of the class, such as the convention of a score."""
    code: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Version of the code of a reward without weights: source file -> opaque text, part of the score id.
    Change it whenever a change of the code changes a score."""
    paper: str = ""
    """URL of the paper or of the authors' repository."""
    citation: str = ""
    """Short citation of the paper."""
    licence: str = "unknown"
    """Licence of the weights."""
    consent: str = ""
    """Licence that must be accepted in `CONSENT_VARIABLE` before the reward is loaded; empty for none."""

    @property
    def declared_as(self) -> str:
        """Name under which a system declares that it was trained on the reward.

        A custom reward is unknown elsewhere, and other files may use its name, so it is declared with the
        hash of its file.
        """
        module = self.entry.rpartition(":")[0]
        if not module.endswith(".py"):
            return self.name
        return CUSTOM_REWARD_FORMAT.format(name=self.name, sha256=sha256(Path(module)))

    def check_consent(self) -> None:
        """Check that the reward's licence was accepted, if it must be.

        Raises:
            LicenceNotAccepted: If it was not.
        """
        accepted = {name.strip() for name in os.environ.get(CONSENT_VARIABLE, "").split(",")}
        if self.consent and self.consent not in accepted:
            raise LicenceNotAccepted(
                f"{self.name} is under the {self.consent} licence, which can bind what you build with it; "
                f"to accept it, set {CONSENT_VARIABLE}={self.consent}"
            )

    def check_role(self, use: Use, *, ablation: bool = False) -> None:
        """Check that the reward's role allows a use. A reward that was optimised cannot judge the result.

        Args:
            use: "training" or "selection".
            ablation: Allow every use.

        Raises:
            WrongRole: If the role forbids the use.
        """
        if not ablation and self.role not in _ROLES_BY_USE[use]:
            raise WrongRole(
                f"{self.name} has the role {self.role!r} and cannot be used for {use}, because it could no "
                f"longer judge the result; use a reward with the role {' or '.join(_ROLES_BY_USE[use])}, or "
                "declare an ablation"
            )
