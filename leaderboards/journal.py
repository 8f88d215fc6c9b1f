"""Append-only journals of JSON lines that survive a crash at any moment.

Every process start appends to a file of its own, whole lines at a time, and syncs them to disk. A crash can
therefore tear only the last line of a file, and readers drop exactly that: what has no line end. A line that
carries another id than its folder is refused, because results of two settings must never be averaged.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tcbench.errors import FileFormatError, MismatchError
from tcbench.files import read_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


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

    Raises MismatchError for a record of another id, FileFormatError for a damaged line.
    """
    for file in sorted(folder.glob("*.jsonl")):
        records = read_lines(file)
        for found in {record.pop("id", None) for record in records} - {folder_id}:
            raise MismatchError(f"{file} holds records of {found} in a folder of {folder_id}: move it away")
        yield from records


def _one_by_one(file: Path, lines: Iterable[bytes]) -> Iterator[Any]:
    """What each line holds. Raises FileFormatError with the number of one that is damaged."""
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise FileFormatError(
                f"{file}, line {number} is damaged ({error}): remove it, it is redone"
            ) from error


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
