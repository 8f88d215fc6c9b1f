"""The run folder: what a run leaves on disk, how it is appended to and how it is read back.

    runs/<suite>-<system>-<generation id>/
        run.json                                   header: ids, settings, plan of the last start, provenance
        batches.jsonl                              which samples are drawn together (see `RunFolder.batches`)
        images/00012-0.png                         lossless, written under a temporary name and renamed
        samples/<process start>.jsonl              one line a sample: made, or missing with its reason
        scores/<reward>-<score id>/reward.json     what the reward is
        scores/<reward>-<score id>/<process start>.jsonl

Every process start appends to files of its own (leaderboards.journal). Readers merge them: a success replaces
a failure, an image drawn again replaces the one that was gone, the first score of an image stands. Records of
another id than their folder's are refused.

This module reads and writes plain JSON and knows nothing of torch, prompts or rewards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from leaderboards.journal import Appender, read_records
from tcbench.errors import FileFormatError, MismatchError
from tcbench.files import append_lines, read_lines, write_atomically

SCHEMA = 1
HEADER = "run.json"
BATCHES = "batches.jsonl"

Key = tuple[int, int]
"""(prompt id, sample index): names one image of a run."""

Record = TypeVar("Record", "Sample", "Score", "ScoreSet")

Status = Literal["ok", "abstained", "failed"]


def short_id(settings: Mapping[str, Any]) -> str:
    """12 hex digits over the canonical JSON of `settings`: equal settings, equal id."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder_name(*parts: str) -> str:
    """`parts` joined by '-', with whatever is unsafe in a file name replaced by '_'."""
    return "-".join(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in parts)


@dataclass(frozen=True)
class Planned:
    """What the last start of a run set out to make: `prompt_ids` of a suite of `of` prompts, `seeds` images
    each.
    """

    prompt_ids: tuple[int, ...]
    of: int
    seeds: int

    @property
    def count(self) -> int:
        """How many samples (images) the plan holds."""
        return len(self.prompt_ids) * self.seeds

    def __contains__(self, key: Key) -> bool:
        return key[1] < self.seeds and key[0] in self._ids

    @cached_property
    def _ids(self) -> frozenset[int]:
        return frozenset(self.prompt_ids)


@dataclass(frozen=True)
class Header:
    """run.json. `generation` is what `generation_id` hashes; what comes from `planned` on may change."""

    suite: str
    suite_sha256: str
    system: str
    generation_id: str
    generation: Mapping[str, Any]
    planned: Planned
    watermarks: tuple[str, ...] = ()
    """Such as "limit 64 of 1632" or "out of domain"; a board shows them beside every number of the run."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The system's own description: rewards it was trained on, prompt rewriting, domain ..."""
    provenance: tuple[Mapping[str, Any], ...] = ()
    """One entry for each distinct environment that worked on this run, the first one first."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, path: Path) -> Self:
        try:
            raw = json.loads(text)
            if raw["schema"] != SCHEMA:
                raise FileFormatError(
                    f"{path} has schema {raw['schema']}, this version reads {SCHEMA}: use another --out"
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
    """One planned image: made (`image` set) or missing (`reason` set). Enough to make it again."""

    prompt_id: int
    sample: int
    prompt: str
    """The suite's prompt: what rewards see."""
    text: str
    """What the pipeline was given, after rewriting."""
    category: str
    noise_seed: int
    image: str | None = None
    """Path of the image, relative to the run folder (absolute for images that were made elsewhere)."""
    sha256: str | None = None
    """Of the image file's bytes."""
    reason: str | None = None
    truncated: bool = False
    """Whether the pipeline's text encoder read only the beginning of `text`."""
    groups: Sequence[str] = ()
    """What a board tells apart beside the category, such as "challenge: Complex"."""

    @property
    def key(self) -> Key:
        return self.prompt_id, self.sample


@dataclass(frozen=True)
class Score:
    """One image's score. "abstained": the reward cannot judge this prompt; "failed": is tried again."""

    prompt_id: int
    sample: int
    status: Status
    score: float | None = None
    reason: str | None = None
    truncated: bool = False
    """Whether the reward read only the beginning of the prompt."""
    image_sha256: str | None = None
    """Of the image that was scored: a score is of these bytes and of no others."""

    @property
    def key(self) -> Key:
        return self.prompt_id, self.sample


@dataclass(frozen=True)
class ScoreSet:
    """reward.json: which reward, with which weights and preprocessing, the lines beside it come from."""

    reward: str
    score_id: str
    higher_is_better: bool
    role: str
    """trainable | selection | judge"""
    family: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return folder_name(self.reward, self.score_id)


class RunFolder:
    """A run on disk. `RunFolder.create` starts or continues one, `RunFolder(path)` opens one for reading."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        file = self.path / HEADER
        if not file.is_file():
            raise FileFormatError(f"{self.path} is not a run folder: it holds no {HEADER}")
        self.header = Header.from_json(file.read_text(encoding="utf-8"), file)

    @classmethod
    def create(cls, path: Path | str, header: Header) -> Self:
        """Start the run at `path`, or continue it with `header`'s plan and watermarks.

        Raises MismatchError when the folder holds a run of other settings.
        """
        path = Path(path)
        (path / "images").mkdir(parents=True, exist_ok=True)
        if (path / HEADER).exists():
            old = cls(path).header
            if old.generation_id != header.generation_id:
                raise MismatchError(
                    f"{path} holds generation {old.generation_id}, asked for {header.generation_id}: "
                    "use another --out"
                )
            seen = [*old.provenance, *(p for p in header.provenance if p not in old.provenance)]
            header = replace(header, provenance=tuple(seen))
            if header.to_json() == old.to_json():
                return cls(path)
        write_atomically(path / HEADER, header.to_json().encode())
        return cls(path)

    # samples

    def samples(self) -> dict[Key, Sample]:
        """All samples on record, planned now or earlier: the newest that was made, else why none was.

        An image is made anew only where the one on record is gone.
        """
        merged: dict[Key, Sample] = {}
        for record in read_records(self.path / "samples", self.header.generation_id):
            sample = _build(Sample, record)
            if sample.key not in merged or sample.image is not None or merged[sample.key].image is None:
                merged[sample.key] = sample
        return merged

    def sample_appender(self) -> Appender:
        return Appender(self.path / "samples", self.header.generation_id)

    def image_path(self, sample: Sample) -> Path:
        """Where `sample`'s image lies (an absolute path on record stays as it is)."""
        if sample.image is None:
            raise FileFormatError(f"sample {sample.key} of {self.path} has no image: {sample.reason}")
        return self.path / sample.image

    # batches

    def batches(self) -> list[list[Key]]:
        """The stored batch plan, in order. A sample belongs to the last batch that lists it.

        Results are bit-equal on CPU only within the same batches, so they are stored before the first is
        drawn.
        """
        listed = [[(p, s) for p, s in line["keys"]] for line in read_lines(self.path / BATCHES)]
        last = {key: index for index, keys in enumerate(listed) for key in keys}
        kept = [[key for key in keys if last[key] == index] for index, keys in enumerate(listed)]
        return [keys for keys in kept if keys]

    def append_batches(self, batches: Iterable[Sequence[Key]]) -> None:
        """Add batches to the end of the plan."""
        append_lines(self.path / BATCHES, ({"keys": [list(key) for key in keys]} for keys in batches))

    # scores

    def score_sets(self) -> list[ScoreSet]:
        """The rewards this run was scored with, by name."""
        files = sorted((self.path / "scores").glob("*/reward.json"))
        return [_build(ScoreSet, json.loads(file.read_text(encoding="utf-8"))) for file in files]

    def scores(self, score_set: ScoreSet) -> dict[Key, Score]:
        """All scores on record of one reward and of the images that the run has now.

        A score or an abstention wins over a failure.
        """
        records = self.score_records(score_set, self.samples())
        return {key: _build(Score, record) for key, record in records.items()}

    def score_records(self, score_set: ScoreSet, samples: Mapping[Key, Sample]) -> dict[Key, dict[str, Any]]:
        """`scores`, of the run's `samples`, as they stand on disk."""
        merged: dict[Key, dict[str, Any]] = {}
        for record in read_records(self.path / "scores" / score_set.folder, score_set.score_id):
            try:
                key: Key = record["prompt_id"], record["sample"]
                if key not in samples or record["image_sha256"] != samples[key].sha256:
                    continue
                if key not in merged or merged[key]["status"] == "failed":
                    merged[key] = record
            except KeyError as error:
                raise _strange(Score, record) from error
        return merged

    def score_appender(self, score_set: ScoreSet) -> Appender:
        """Appender for one reward. Raises MismatchError if the folder holds another reward or id."""
        folder = self.path / "scores" / score_set.folder
        file = folder / "reward.json"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(
                file, (json.dumps(asdict(score_set), indent=1, ensure_ascii=False) + "\n").encode()
            )
        old = _build(ScoreSet, json.loads(file.read_text(encoding="utf-8")))
        if (old.reward, old.score_id) != (score_set.reward, score_set.score_id):
            raise MismatchError(
                f"{folder} holds {old.reward} {old.score_id}, not {score_set.reward} {score_set.score_id}: "
                "move that folder away"
            )
        return Appender(folder, score_set.score_id)


def find_runs(paths: Iterable[Path | str]) -> list[RunFolder]:
    """The run folders among and directly below `paths`, sorted by path, each once.

    Raises FileFormatError for a path that does not exist or holds no run.
    """
    found: dict[Path, RunFolder] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileFormatError(f"no run folder at {path}: give run folders, or the folder that holds them")
        headers = [path / HEADER] if (path / HEADER).is_file() else sorted(path.glob(f"*/{HEADER}"))
        if not headers:
            raise FileFormatError(f"{path} holds no run: `tcbench run --out {path} ...` makes one")
        for header in headers:
            found.setdefault(header.parent.resolve(), RunFolder(header.parent))
    return [found[key] for key in sorted(found)]


def _build(kind: type[Record], record: dict[str, Any]) -> Record:
    try:
        return kind(**record)
    except TypeError as error:
        raise _strange(kind, record) from error


def _strange(kind: type[Record], record: Mapping[str, Any]) -> FileFormatError:
    known = ", ".join(f.name for f in fields(kind))
    return FileFormatError(f"a {kind.__name__} record has other fields than {known}: {sorted(record)}")
