"""Append-only journals of JSON lines that survive a crash at any moment.

Every process start appends to a file of its own, whole lines at a time, and syncs them to disk. A crash can
therefore tear only the last line of a file, and readers drop exactly that: what has no line end. A line that
carries another id than its folder is refused, because results of two settings must never be averaged.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class RunFolderError(ValueError):
    """A run folder that cannot be read or written as asked; the message says what to do."""


class MixedIds(RunFolderError):
    """Records of different settings in one place (exit code 4: provenance mismatch)."""


class Appender:
    """Appends records (dataclasses) to one new file of `folder`, with the folder's id; a context manager.

    The file appears with its first record.
    """

    def __init__(self, folder: Path, folder_id: str) -> None:
        self._folder, self._id = folder, folder_id
        self._descriptor: int | None = None

    def append(self, records: Iterable[DataclassInstance]) -> None:
        """Write one line a record and sync. Raises OSError (disk full, read-only) with earlier lines kept."""
        lines = [_line({"id": self._id, **asdict(record)}) for record in records]
        if not lines:
            return
        if self._descriptor is None:
            self._descriptor = self._open()
        _write_and_sync(self._descriptor, "".join(lines).encode())

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{start}-{os.getpid()}-{secrets.token_hex(2)}.jsonl"
        return os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_records(folder: Path, folder_id: str) -> Iterator[dict[str, Any]]:
    """Records of all files of `folder`, in the order of process starts, without their id.

    Raises MixedIds for a record of another id, RunFolderError for a damaged line.
    """
    for file in sorted(folder.glob("*.jsonl")):
        records = read_lines(file)
        for found in {record.pop("id", None) for record in records} - {folder_id}:
            raise MixedIds(f"{file} holds records of {found} in a folder of {folder_id}: move it away")
        yield from records


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; none where there is no file. Raises RunFolderError for a damaged one."""
    if not file.exists():
        return []
    *lines, _torn = file.read_bytes().split(b"\n")
    try:
        records: list[Any] = orjson.loads(b"[%s]" % b",".join(lines))  # at once: a board reads millions
    except ValueError:
        records = []
    if len(records) != len(lines):
        records = list(_one_by_one(file, lines))
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise RunFolderError(f"{file}, line {number} is no record: remove it, it is redone")
    return records


def _one_by_one(file: Path, lines: Iterable[bytes]) -> Iterator[Any]:
    """What each line holds. Raises RunFolderError with the number of one that is damaged."""
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise RunFolderError(
                f"{file}, line {number} is damaged ({error}): remove it, it is redone"
            ) from error


def append_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records to one shared file, after cutting off a last line that an earlier crash tore."""
    lines = "".join(_line(record) for record in records)
    if not lines:
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, os.read(descriptor, os.fstat(descriptor).st_size).rfind(b"\n") + 1)
        _write_and_sync(descriptor, lines.encode())
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; the system lets go of it when the process ends, however it ends.

    Files that a killed process was writing (see `write_atomically`) are removed. Raises RunFolderError when
    another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(f"another process is working on {folder}: wait for it or end it") from error
        for torn in folder.rglob(".*.tmp"):
            torn.unlink()
        yield
    finally:
        os.close(descriptor)


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


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _write_and_sync(descriptor: int, data: bytes) -> None:
    """Append all of `data`; on an error (disk full) take back the part that was written."""
    before = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise
