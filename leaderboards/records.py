"""Records of a run: its header, samples, scores and score sets, as they are stored in JSON.

This module does not read files (`leaderboards.run_state` does), and needs no torch, prompts or rewards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from tcbench.errors import FileFormatError

SCHEMA = 1

Key = tuple[int, int]
"""(prompt id, sample index): identifies one image of a run."""

Record = TypeVar("Record", "Sample", "Score", "ScoreSet")

Status = Literal["ok", "abstained", "failed"]


def short_id(settings: Mapping[str, Any]) -> str:
    """Return 12 hex digits of the sha256 of ``settings`` as canonical JSON: equal settings, equal id."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder_name(*parts: str) -> str:
    """Join ``parts`` with '-', after replacing what is unsafe in a file name with '_'."""
    return "-".join(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in parts)


@dataclass(frozen=True)
class Planned:
    """Samples of a run: those that boards compare, or those that one start generates and scores."""

    prompt_ids: tuple[int, ...]
    of: int
    """Number of prompts in the whole suite."""
    seeds: int
    """Images per prompt."""

    @property
    def count(self) -> int:
        """Number of planned samples (images)."""
        return len(self.prompt_ids) * self.seeds

    def is_wider_than(self, other: Planned) -> bool:
        """Whether this plan contains the other one and more."""
        contains = self._ids >= other._ids and self.seeds >= other.seeds
        return contains and (self._ids, self.seeds) != (other._ids, other.seeds)

    def keys(self) -> list[Key]:
        """All planned samples: the first image of every prompt, then the second one, and so on."""
        return [(prompt, sample) for sample in range(self.seeds) for prompt in self.prompt_ids]

    def __contains__(self, key: Key) -> bool:
        return key[1] < self.seeds and key[0] in self._ids

    @cached_property
    def _ids(self) -> frozenset[int]:
        return frozenset(self.prompt_ids)


@dataclass(frozen=True)
class Header:
    """The content of run.json. Fields from `planned` on may change from start to start."""

    suite: str
    suite_sha256: str
    """Hash of the ordered prompts."""
    system: str
    generation_id: str
    generation: Mapping[str, Any]
    """The settings that change images; `generation_id` is their hash."""
    planned: Planned
    """The samples that boards compare: the widest plan that a start completed, or that of the last start."""
    watermarks: tuple[str, ...] = ()
    """Caveats such as "limit 64 of 1632" or "out of domain"; a board shows them with the run's numbers."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Description of the system: the rewards it was trained on, its prompt rewriter, its domain, ..."""
    provenance: tuple[Mapping[str, Any], ...] = ()
    """The distinct environments that worked on this run, in order."""
    finished: bool | None = None
    """Whether a start finished `planned`, which boards then keep comparing. None in files of earlier
    versions: finished if all samples are recorded."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the text of run.json."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, path: Path) -> Self:
        """Parse the text of run.json; ``path`` is for messages.

        Raises:
            FileFormatError: If the text is not a header of this schema.
        """
        try:
            raw = json.loads(text)
            if raw["schema"] != SCHEMA:
                raise FileFormatError(
                    f"{path} has schema {raw['schema']}, expected {SCHEMA}: use another --out"
                )
            planned = Planned(
                tuple(raw["planned"]["prompt_ids"]), raw["planned"]["of"], raw["planned"]["seeds"]
            )
            raw |= {
                "planned": planned,
                "watermarks": tuple(raw["watermarks"]),
                "provenance": tuple(raw["provenance"]),
            }
            return cls(**raw)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise FileFormatError(
                f"{path} is not a run header ({error!r}): remove its folder or restore the file"
            ) from error


@dataclass(frozen=True)
class Sample:
    """One planned image: generated (`image` is set) or missing (`reason` is set).

    With the run's header it holds all that is needed to regenerate the image.
    """

    prompt_id: int
    sample: int
    """Index among the images of the prompt, from 0."""
    prompt: str
    """The suite's prompt, which rewards see."""
    text: str
    """The pipeline's prompt, after rewriting."""
    category: str
    noise_seed: int
    image: str | None = None
    """Path of the image, relative to the run folder; absolute for images that were adopted from a folder."""
    sha256: str | None = None
    """Hash of the image file's bytes."""
    reason: str | None = None
    """Why the image is missing."""
    truncated: bool = False
    """Whether the pipeline's text encoder read only the beginning of `text`."""
    groups: Sequence[str] = ()
    """Further groups that a board breaks down, such as "challenge: Complex"."""

    @property
    def key(self) -> Key:
        """The sample's key."""
        return self.prompt_id, self.sample


@dataclass(frozen=True)
class Score:
    """One reward's score of one image."""

    prompt_id: int
    sample: int
    status: Status
    """"ok"; "abstained": the reward cannot judge this prompt; "failed": the next start tries again."""
    score: float | None = None
    reason: str | None = None
    """Why there is no score."""
    truncated: bool = False
    """Whether the reward read only the beginning of the prompt."""
    image_sha256: str | None = None
    """Hash of the image that was scored; the score counts for exactly these bytes."""

    @property
    def key(self) -> Key:
        """The sample's key."""
        return self.prompt_id, self.sample


@dataclass(frozen=True)
class ScoreSet:
    """The content of reward.json: the reward, weights and preprocessing of the scores in the same folder."""

    reward: str
    score_id: str
    """Hash of everything that changes a score (`rewards.base.score_id`)."""
    higher_is_better: bool
    role: str
    """trainable | selection | judge | imported"""
    family: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of the folder of these scores."""
        return folder_name(self.reward, self.score_id)


def from_record(kind: type[Record], record: Mapping[str, Any]) -> Record:
    """Build a `Sample`, `Score` or `ScoreSet` from its JSON record.

    Raises:
        FileFormatError: If fields are missing or unknown.
    """
    try:
        return kind(**record)
    except TypeError as error:
        expected = ", ".join(f.name for f in fields(kind))
        raise FileFormatError(
            f"a {kind.__name__} record has the fields {sorted(record)}; expected {expected}"
        ) from error
