"""The run folder: what a run leaves on disk, how it is appended to and how it is read back.

    runs/<suite>-<system>-<generation id>/
        run.json                                   header: ids, settings, plan of the last start, provenance
        batches.jsonl                              which samples are drawn together (see `RunFolder.batches`)
        images/00012-0.png                         lossless, written under a temporary name and renamed
        samples/<process start>.jsonl              one line a sample: made, or missing with its reason
        scores/<reward>-<score id>/reward.json     what the reward is
        scores/<reward>-<score id>/<process start>.jsonl

Every process start appends to files of its own, whole lines at a time, and syncs them to disk. A crash can
therefore tear only the last line of a file, and readers drop exactly that: a last line without its line end.
Lines of all files are merged; the first success of a sample stands, a success replaces a failure. A line that
carries another id than its folder is refused, because numbers of two settings must never be averaged.

This module reads and writes plain JSON and knows nothing of torch, prompts or rewards.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
HEADER = "run.json"

Key = tuple[int, int]
"""(prompt id, sample index): names one image of a run."""

Record = TypeVar("Record", "Sample", "Score", "ScoreSet")

Status = Literal["ok", "abstained", "failed"]


class RunFolderError(ValueError):
    """A run folder that cannot be read or written as asked; the message says what to do."""


class MixedIds(RunFolderError):
    """Records of different settings in one place (exit code 4: provenance mismatch)."""


def short_id(settings: Mapping[str, Any]) -> str:
    """12 hex digits over the canonical JSON of `settings`: equal settings, equal id."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder_name(*parts: str) -> str:
    """`parts` joined by '-', with whatever is unsafe in a file name replaced by '_'."""
    return "-".join(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in parts)


@dataclass(frozen=True)
class Planned:
    """What the last start of a run set out to make: `prompt_ids` of a suite of `of` prompts, `seeds` images each."""

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
    """run.json. `generation` is what `generation_id` hashes; everything from `planned` on may change later."""

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
            planned = Planned(
                tuple(raw["planned"]["prompt_ids"]), raw["planned"]["of"], raw["planned"]["seeds"]
            )
            raw |= {
                "planned": planned,
                "watermarks": tuple(raw["watermarks"]),
                "provenance": tuple(raw["provenance"]),
            }
            header = cls(**raw)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{path} is not a run header ({error!r}): remove its folder or restore the file"
            ) from error
        if header.schema != SCHEMA:
            raise RunFolderError(
                f"{path} has schema {header.schema}, this version reads {SCHEMA}: use another --out"
            )
        return header


@dataclass(frozen=True)
class Sample:
    """One planned image: made (`image` set) or missing (`reason` set). Holds all it takes to make it again."""

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

    @property
    def key(self) -> Key:
        return self.prompt_id, self.sample


@dataclass(frozen=True)
class Score:
    """One image's score. `abstained`: the reward cannot judge this prompt; `failed`: tried again at the next start."""

    prompt_id: int
    sample: int
    status: Status
    score: float | None = None
    reason: str | None = None

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


class Appender:
    """Appends whole lines to one new file; the file appears with its first line. Use as a context manager."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder, self._run_id = folder, run_id
        self._descriptor: int | None = None

    def append(self, records: Iterable[Sample | Score]) -> None:
        """Write one line a record and sync. Raises OSError (disk full, read-only) with earlier lines kept."""
        lines = [
            json.dumps({"id": self._run_id, **asdict(r)}, ensure_ascii=False, allow_nan=False)
            for r in records
        ]
        if not lines:
            return
        if self._descriptor is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
            name = f"{start}-{os.getpid()}-{secrets.token_hex(2)}.jsonl"
            self._descriptor = os.open(
                self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644
            )
        _write_all(self._descriptor, ("\n".join(lines) + "\n").encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class RunFolder:
    """A run on disk. `RunFolder.create` starts or continues one, `RunFolder(path)` opens one for reading."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        file = self.path / HEADER
        if not file.is_file():
            raise RunFolderError(f"{self.path} is not a run folder: it holds no {HEADER}")
        self.header = Header.from_json(file.read_text(encoding="utf-8"), file)

    @classmethod
    def create(cls, path: Path | str, header: Header) -> Self:
        """Start the run at `path`, or continue it with `header`'s plan and watermarks.

        Raises MixedIds when the folder holds a run of other settings.
        """
        path = Path(path)
        (path / "images").mkdir(parents=True, exist_ok=True)
        if (path / HEADER).exists():
            old = cls(path).header
            if old.generation_id != header.generation_id:
                raise MixedIds(
                    f"{path} holds generation {old.generation_id}, asked for {header.generation_id}: use another --out"
                )
            seen = [*old.provenance, *(p for p in header.provenance if p not in old.provenance)]
            header = replace(header, provenance=tuple(seen))
            if header == old:
                return cls(path)
        write_atomically(path / HEADER, header.to_json().encode())
        return cls(path)

    # samples

    def samples(self) -> dict[Key, Sample]:
        """All samples on record, planned now or earlier; a made one wins over a missing one."""
        merged: dict[Key, Sample] = {}
        for record in _read_records(self.path / "samples", self.header.generation_id):
            sample = _build(Sample, record)
            if sample.key not in merged or merged[sample.key].image is None:
                merged[sample.key] = sample
        return merged

    def sample_appender(self) -> Appender:
        return Appender(self.path / "samples", self.header.generation_id)

    def image_path(self, sample: Sample) -> Path:
        """Where `sample`'s image lies (an absolute path on record stays as it is)."""
        if sample.image is None:
            raise RunFolderError(f"sample {sample.key} of {self.path} has no image: {sample.reason}")
        return self.path / sample.image

    # batches

    def batches(self) -> list[list[Key]]:
        """The stored batch plan, in order. A sample belongs to the last batch that lists it.

        Results are bit-equal on CPU only within the same batches, so they are stored before the first is drawn.
        """
        listed = [[(p, s) for p, s in line["keys"]] for line in _read_lines(self.path / "batches.jsonl")]
        last = {key: index for index, keys in enumerate(listed) for key in keys}
        kept = [[key for key in keys if last[key] == index] for index, keys in enumerate(listed)]
        return [keys for keys in kept if keys]

    def append_batches(self, batches: Iterable[Sequence[Key]]) -> None:
        """Add batches to the plan. A torn last line of an earlier start is cut off first."""
        lines = "".join(json.dumps({"keys": [list(key) for key in keys]}) + "\n" for keys in batches)
        if not lines:
            return
        descriptor = os.open(self.path / "batches.jsonl", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            whole = os.read(descriptor, os.fstat(descriptor).st_size).rfind(b"\n") + 1
            os.ftruncate(descriptor, whole)
            _write_all(descriptor, lines.encode())
        finally:
            os.close(descriptor)

    # scores

    def score_sets(self) -> list[ScoreSet]:
        """The rewards this run was scored with, by name."""
        files = sorted((self.path / "scores").glob("*/reward.json"))
        return [_build(ScoreSet, json.loads(file.read_text(encoding="utf-8"))) for file in files]

    def scores(self, score_set: ScoreSet) -> dict[Key, Score]:
        """All scores on record of one reward; a score or an abstention wins over a failure."""
        merged: dict[Key, Score] = {}
        for record in _read_records(self.path / "scores" / score_set.folder, score_set.score_id):
            score = _build(Score, record)
            if score.key not in merged or merged[score.key].status == "failed":
                merged[score.key] = score
        return merged

    def score_appender(self, score_set: ScoreSet) -> Appender:
        """Appender for one reward. Raises MixedIds if the folder holds another reward or id."""
        folder = self.path / "scores" / score_set.folder
        file = folder / "reward.json"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(
                file, (json.dumps(asdict(score_set), indent=1, ensure_ascii=False) + "\n").encode()
            )
        old = _build(ScoreSet, json.loads(file.read_text(encoding="utf-8")))
        if (old.reward, old.score_id) != (score_set.reward, score_set.score_id):
            raise MixedIds(
                f"{folder} holds {old.reward} {old.score_id}, not {score_set.reward} {score_set.score_id}: "
                "move that folder away"
            )
        return Appender(folder, score_set.score_id)


def find_runs(paths: Iterable[Path | str]) -> list[RunFolder]:
    """The run folders among and directly below `paths`, sorted by path, each once.

    Raises RunFolderError for a path that does not exist or holds no run.
    """
    found: dict[Path, RunFolder] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise RunFolderError(f"no run folder at {path}: give run folders, or the folder that holds them")
        headers = [path / HEADER] if (path / HEADER).is_file() else sorted(path.glob(f"*/{HEADER}"))
        if not headers:
            raise RunFolderError(f"{path} holds no run: `tcbench run --out {path} ...` makes one")
        for header in headers:
            found.setdefault(header.parent.resolve(), RunFolder(header.parent))
    return [found[key] for key in sorted(found)]


FRAME_COLUMNS = (
    "run", "suite", "suite_sha256", "system", "generation_id", "reward", "score_id", "higher_is_better", "role",
    "prompt_id", "category", "sample", "score", "reason",
)  # fmt: skip


def frame(runs: Iterable[RunFolder]) -> pd.DataFrame:
    """All scores inside the runs' plans, one row per (run, reward, prompt, sample), columns `FRAME_COLUMNS`.

    `score` is NaN and `reason` says why where a sample could not be made, judged or scored; a planned sample that
    was not tried yet has no row. Rows are sorted by run, reward, prompt and sample, so equal runs give equal frames.
    """
    import pandas as pd

    rows = [row for run in runs for row in _rows(run)]
    table = pd.DataFrame(rows, columns=list(FRAME_COLUMNS))
    order = ["run", "reward", "score_id", "prompt_id", "sample"]
    return table.astype({"score": "float64"}).sort_values(order, kind="stable", ignore_index=True)


def _rows(run: RunFolder) -> Iterator[tuple[Any, ...]]:
    header, samples = run.header, run.samples()
    head = (run.path.name, header.suite, header.suite_sha256, header.system, header.generation_id)
    for score_set in run.score_sets():
        scores = run.scores(score_set)
        reward = (score_set.reward, score_set.score_id, score_set.higher_is_better, score_set.role)
        for key, sample in samples.items():
            if key not in header.planned:
                continue
            if sample.image is None:
                value, reason = None, sample.reason
            elif key in scores:
                value, reason = scores[key].score, scores[key].reason
            else:
                continue
            yield (*head, *reward, key[0], sample.category, key[1], value, reason)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name, sync and rename: a reader sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    """Append all of `data` and sync; on an error (disk full) take back the part that was written."""
    before = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON-lines file; what follows the last line end was torn by a crash and is dropped."""
    if not file.exists():
        return
    *lines, _torn = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RunFolderError(
                f"{file}, line {number} is damaged ({error}): remove that line; it is redone"
            ) from error
        if not isinstance(record, dict):
            raise RunFolderError(f"{file}, line {number} is no record: remove that line; it is redone")
        yield record


def _read_records(folder: Path, expected_id: str) -> Iterator[dict[str, Any]]:
    """Records of all files of `folder` in the order of process starts, without their id, which must be the folder's."""
    for file in sorted(folder.glob("*.jsonl")):
        for record in _read_lines(file):
            found = record.pop("id", None)
            if found != expected_id:
                raise MixedIds(
                    f"{file} holds records of {found} in a folder of {expected_id}: move that file away"
                )
            yield record


def _build(kind: type[Record], record: dict[str, Any]) -> Record:
    try:
        return kind(**record)
    except TypeError as error:
        known = ", ".join(f.name for f in fields(kind))
        raise RunFolderError(
            f"a {kind.__name__} record has other fields than {known}: {sorted(record)}"
        ) from error
