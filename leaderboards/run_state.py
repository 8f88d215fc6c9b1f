"""A run folder on disk and in memory: each part is loaded once and kept up to date by appending.

    runs/<suite>-<system>-<generation id>/
        run.json                                   header: ids, settings, plan, provenance
        batches.jsonl                              which samples are generated together
        images/00012-0.png                         lossless, written under a temporary name and renamed
        samples/<process start>.jsonl              one line per sample: its image, or the reason it is missing
        scores/<reward>-<score id>/reward.json     description of the reward
        scores/<reward>-<score id>/<process start>.jsonl

Each process start appends to its own files (`leaderboards.journal`). Reading merges them: a success replaces
a failure, a regenerated image replaces the one that was lost, and the first score of an image is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from leaderboards.journal import Journal
from leaderboards.records import Header, Key, Sample, Score, ScoreSet, Status, from_record
from tcbench.errors import FileFormatError, MismatchError
from tcbench.files import append_lines, read_lines, write_atomically
from tcbench.images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

HEADER = "run.json"
_BATCHES = "batches.jsonl"


class RunState:
    """A run folder whose samples, batches and scores are read when first needed, and then only once.

    `RunState.create` starts or resumes a run, ``RunState(path)`` opens an existing one. Appending updates
    the files and the loaded state. What another process appends later is seen by a new `RunState` only.

    Example:
        >>> run = RunState("runs/world-micro-0123456789ab")  # doctest: +SKIP
        >>> [sample.image for sample in run.samples.values()]  # doctest: +SKIP
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        """The run folder."""
        file = self.path / HEADER
        if not file.is_file():
            raise FileFormatError(
                f"{self.path} is not a run folder: it {_lacks(self.path)}; give one that `tcbench run` wrote"
            )
        self.header = Header.from_json(file.read_text(encoding="utf-8"), file)
        """Content of run.json."""
        self.plan = self.header.planned
        """Samples that this start works on; boards compare those of the header."""
        self._sample_journal = Journal(self.path / "samples", self.header.generation_id)
        self._score_journals: dict[str, Journal] = {}
        self._scores: dict[str, dict[Key, Score]] = {}

    @classmethod
    def create(cls, path: Path | str, header: Header) -> Self:
        """Start the run at ``path``, or resume it to work on the plan of ``header``.

        Boards keep comparing the plan that an earlier start finished until this start finishes a wider one
        (`finish`).

        Raises:
            MismatchError: If the folder holds a run with other settings.
        """
        path = Path(path)
        (path / "images").mkdir(parents=True, exist_ok=True)
        if not (path / HEADER).exists():
            write_atomically(path / HEADER, replace(header, finished=False).to_json().encode())
            return cls(path)
        run = cls(path)
        old, plan = run.header, header.planned
        if old.generation_id != header.generation_id:
            raise MismatchError(
                f"{path} holds generation {old.generation_id}, expected {header.generation_id}: "
                "use another --out"
            )
        added = [entry for entry in header.provenance if entry not in old.provenance]
        header = replace(header, provenance=(*old.provenance, *added), finished=run.is_finished)
        if header.finished:
            header = replace(header, planned=old.planned, watermarks=old.watermarks)
        run._write_header(header)
        run.plan = plan
        return run

    @property
    def is_finished(self) -> bool:
        """Whether a start finished the samples that boards compare."""
        if self.header.finished is not None:
            return self.header.finished
        return self.samples.keys() >= set(self.header.planned.keys())

    def finish(self, header: Header) -> None:
        """Record that this start finished the plan of ``header``.

        Boards compare it from now on if it contains all samples that they compare now.
        """
        if not self.is_finished or header.planned.is_wider_than(self.header.planned):
            self._write_header(
                replace(self.header, planned=header.planned, watermarks=header.watermarks, finished=True)
            )

    def _write_header(self, header: Header) -> None:
        if header.to_json() != self.header.to_json():
            write_atomically(self.path / HEADER, header.to_json().encode())
            self.header = header

    # samples

    @cached_property
    def samples(self) -> dict[Key, Sample]:
        """All recorded samples, planned now or by an earlier start, each with its newest image if any."""
        merged: dict[Key, Sample] = {}
        for record in self._sample_journal.read():
            _merge_sample(merged, from_record(Sample, record))
        return merged

    def append_samples(self, samples: Iterable[Sample]) -> None:
        """Record samples on disk and in `samples`."""
        samples = list(samples)
        merged = self.samples  # loaded before the file grows
        self._sample_journal.append(samples)
        for sample in samples:
            _merge_sample(merged, sample)
        # a score counts for one image's bytes only, so scores are matched to the samples again
        self._scores.clear()

    def image_path(self, sample: Sample) -> Path:
        """Return the path of a sample's image; a recorded absolute path is returned unchanged.

        Raises:
            FileFormatError: If the sample has no image.
        """
        if sample.image is None:
            raise FileFormatError(f"sample {sample.key} of {self.path} has no image: {sample.reason}")
        return self.path / sample.image

    # batches

    @cached_property
    def _batch_lines(self) -> list[list[Key]]:
        return [[(p, s) for p, s in line["keys"]] for line in read_lines(self.path / _BATCHES)]

    @property
    def batches(self) -> list[list[Key]]:
        """The stored batch plan, in order. A sample belongs to the last batch that lists it.

        Results are bit-identical on the CPU only within the same batches, so batches are stored before the
        first image is generated.
        """
        last = {key: index for index, keys in enumerate(self._batch_lines) for key in keys}
        batches = [
            [key for key in keys if last[key] == index] for index, keys in enumerate(self._batch_lines)
        ]
        return [keys for keys in batches if keys]

    def append_batches(self, batches: Iterable[Sequence[Key]]) -> None:
        """Add batches to the end of the plan, on disk and in `batches`."""
        added = [list(keys) for keys in batches]
        lines = self._batch_lines  # loaded before the file grows
        append_lines(self.path / _BATCHES, ({"keys": [list(key) for key in keys]} for keys in added))
        lines += added

    # scores

    @property
    def score_sets(self) -> list[ScoreSet]:
        """The rewards that scored this run, by name."""
        return [self._score_sets[folder] for folder in sorted(self._score_sets)]

    @cached_property
    def _score_sets(self) -> dict[str, ScoreSet]:
        files = (self.path / "scores").glob("*/reward.json")
        return {file.parent.name: _read_score_set(file) for file in files}

    def scores(self, score_set: ScoreSet) -> Mapping[Key, Score]:
        """Return one reward's scores of the images that the run has now; see `_replaces` for which count."""
        if score_set.folder not in self._scores:
            records = self.score_records(score_set, self.samples)
            self._scores[score_set.folder] = {
                key: from_record(Score, record) for key, record in records.items()
            }
        return self._scores[score_set.folder]

    def score_records(self, score_set: ScoreSet, samples: Mapping[Key, Sample]) -> dict[Key, dict[str, Any]]:
        """Return the scores of ``samples`` as they are on disk, without keeping them in memory.

        For boards, which turn millions of them into arrays at once.
        """
        merged: dict[Key, dict[str, Any]] = {}
        for record in self._score_journal(score_set).read():
            try:
                key: Key = record["prompt_id"], record["sample"]
                old = merged.get(key)
                if _replaces(record["image_sha256"], samples.get(key), old["status"] if old else None):
                    merged[key] = record
            except KeyError as error:
                raise FileFormatError(f"a Score record lacks {error}; it has {sorted(record)}") from error
        return merged

    def append_scores(self, score_set: ScoreSet, scores: Iterable[Score]) -> None:
        """Record scores of one reward on disk and in `scores`.

        Raises:
            MismatchError: If the reward's folder holds another reward or score id.
        """
        scores = list(scores)
        self.scores(score_set)  # loaded before the file grows
        merged = self._scores[score_set.folder]
        self._describe_score_set(score_set)
        self._score_journal(score_set).append(scores)
        for score in scores:
            old = merged.get(score.key)
            if _replaces(score.image_sha256, self.samples.get(score.key), old.status if old else None):
                merged[score.key] = score

    def _score_journal(self, score_set: ScoreSet) -> Journal:
        folder = self.path / "scores" / score_set.folder
        return self._score_journals.setdefault(score_set.folder, Journal(folder, score_set.score_id))

    def _describe_score_set(self, score_set: ScoreSet) -> None:
        """Write reward.json if it does not exist; otherwise check it."""
        folder = self.path / "scores" / score_set.folder
        old = self._score_sets.get(score_set.folder)
        if old is None:
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(asdict(score_set), indent=1, ensure_ascii=False) + "\n"
            write_atomically(folder / "reward.json", text.encode())
            self._score_sets[score_set.folder] = score_set
        elif (old.reward, old.score_id) != (score_set.reward, score_set.score_id):
            raise MismatchError(
                f"{folder} holds {old.reward} {old.score_id}, expected {score_set.reward} "
                f"{score_set.score_id}: move that folder away"
            )

    @property
    def images(self) -> int:
        """Number of planned images on record, even if their files are elsewhere."""
        planned = self.header.planned
        return sum(sample.image is not None and key in planned for key, sample in self.samples.items())

    def missing_images(self) -> set[Key]:
        """Return the samples of this start's plan whose image is not on disk."""
        on_disk = {
            key
            for key, sample in self.samples.items()
            if sample.image is not None and self.image_path(sample).is_file()
        }
        return set(self.plan.keys()) - on_disk

    def open_image(self, sample: Sample) -> Image:
        """Decode a sample's image.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file is not the one on record, or cannot be decoded.
        """
        path = self.image_path(sample)
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sample.sha256:
            raise ValueError(
                f"{path} is not the image that was recorded; restore it, or delete the run folder and re-run "
                "the command"
            )
        return open_image(path, content)

    def plan_batches(self, batch_size: int) -> list[list[Key]]:
        """Give every sample of this start's plan without a batch a new one, and return the plan's batches.

        Batches that have been started stay as they are, whatever ``batch_size`` is now, because results are
        bit-identical on the CPU only within the same batches. Larger batches that have not been started are
        split again, because they may be the ones that did not fit in memory.
        """
        planned, started = self.plan, self.samples.keys()
        kept = [batch for batch in self.batches if len(batch) <= batch_size or not started.isdisjoint(batch)]
        in_batch = {key for batch in kept for key in batch}
        keys = planned.keys()
        new = [key for key in keys if key not in in_batch]
        self.append_batches([new[i : i + batch_size] for i in range(0, len(new), batch_size)])
        return [batch for batch in self.batches if any(key in planned for key in batch)]


def _lacks(path: Path) -> str:
    if path.is_dir():
        return f"has no {HEADER}"
    return "is a file" if path.exists() else "does not exist"


def _merge_sample(merged: dict[Key, Sample], sample: Sample) -> None:
    """Keep the newest image. An image is regenerated only where the file of the recorded one is gone."""
    if sample.key not in merged or sample.image is not None or merged[sample.key].image is None:
        merged[sample.key] = sample


def _replaces(image_sha256: str | None, sample: Sample | None, old_status: Status | None) -> bool:
    """Whether a score of the image with this hash counts, given the status of the sample's earlier score.

    Only scores of the image that the run has now count. A score or an abstention replaces a failure;
    otherwise the first record of an image counts.
    """
    return sample is not None and image_sha256 == sample.sha256 and old_status in (None, "failed")


def _read_score_set(file: Path) -> ScoreSet:
    return from_record(ScoreSet, json.loads(file.read_text(encoding="utf-8")))


def find_runs(paths: Iterable[Path | str]) -> list[RunState]:
    """Return the run folders among and directly below ``paths``, sorted by path, each once.

    Raises:
        FileFormatError: If a path does not exist or holds no run.
    """
    runs: dict[Path, RunState] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileFormatError(f"run folder not found: {path}; give run folders, or their parent folder")
        if path.is_file():
            raise FileFormatError(f"{path} is a file; give run folders, or their parent folder")
        headers = [path / HEADER] if (path / HEADER).is_file() else sorted(path.glob(f"*/{HEADER}"))
        if not headers:
            raise FileFormatError(f"{path} holds no run; create one with `tcbench run --out {path} ...`")
        for header in headers:
            if header.parent.resolve() not in runs:
                runs[header.parent.resolve()] = RunState(header.parent)
    return [runs[key] for key in sorted(runs)]
