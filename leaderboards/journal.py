"""Append-only journals: folders of JSON lines files that survive a crash at any moment.

Each process start appends to a new file, whole lines at a time, and syncs them to disk. A crash can therefore
damage only the last line of a file. Readers drop an incomplete last line and nothing else.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcbench.errors import MismatchError
from tcbench.files import append_lines, read_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Journal:
    """The records of one folder, which all carry the same id.

    Args:
        folder: Folder of the JSON lines files; it need not exist yet.
        folder_id: Generation id or score id. Every line carries it, because results of different settings
            must never be averaged.
    """

    def __init__(self, folder: Path, folder_id: str) -> None:
        self.folder, self.id = folder, folder_id
        self._file: Path | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the records of all files, in the order of process starts, without their id.

        Raises:
            MismatchError: If a record carries another id.
            FileFormatError: If a line other than an incomplete last one is damaged.
        """
        for file in sorted(self.folder.glob("*.jsonl")):
            records = read_lines(file)
            for other in {record.pop("id", None) for record in records} - {self.id}:
                raise MismatchError(
                    f"{file} holds records of {other} in a folder of {self.id}: move the file away"
                )
            yield from records

    def append(self, records: Iterable[DataclassInstance]) -> None:
        """Write one line per record to this start's file, which is created with its first record, and sync.

        Raises:
            OSError: If the disk is full or read-only; earlier lines are unchanged.
        """
        rows = [{"id": self.id, **asdict(record)} for record in records]
        if rows:
            self._file = self._file or self._create()
            append_lines(self._file, rows)

    def _create(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        file = self.folder / f"{start}-{os.getpid()}-{secrets.token_hex(2)}.jsonl"
        # two starts never share a file, so an incomplete line of one cannot damage the other
        file.touch(exist_ok=False)
        return file
