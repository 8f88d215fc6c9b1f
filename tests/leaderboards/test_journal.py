"""Journals: complete lines survive a crash, an incomplete last line is dropped, ids never mix."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from leaderboards.journal import Journal
from tcbench.errors import FileFormatError, MismatchError


@dataclass
class Number:
    value: int


def append(folder: Path, *values: int, folder_id: str = "a") -> None:
    Journal(folder, folder_id).append([Number(value) for value in values])


def values(folder: Path) -> list[int]:
    return [record["value"] for record in Journal(folder, "a").read()]


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("*.jsonl")
    return file


def test_each_start_writes_its_own_file_and_reading_keeps_their_order(tmp_path: Path) -> None:
    append(tmp_path, 1, 2)
    append(tmp_path, 3)
    assert len(list(tmp_path.iterdir())) == 2
    assert values(tmp_path) == [1, 2, 3]


def test_appending_nothing_creates_no_file(tmp_path: Path) -> None:
    append(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_incomplete_last_line_is_dropped_at_every_length(tmp_path: Path) -> None:
    append(tmp_path, 1, 2)
    file = only_file(tmp_path)
    whole = file.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        file.write_bytes(whole[:length])
        assert values(tmp_path) == [1]


@pytest.mark.parametrize("line", [b"{torn", b"[1]"])
def test_damaged_line_is_an_error_with_its_number(tmp_path: Path, line: bytes) -> None:
    append(tmp_path, 1)
    file = only_file(tmp_path)
    file.write_bytes(line + b"\n" + file.read_bytes())
    with pytest.raises(FileFormatError, match="line 1 is"):
        values(tmp_path)


def test_records_of_another_id_are_an_error(tmp_path: Path) -> None:
    append(tmp_path, 1)
    append(tmp_path, 2, folder_id="b")
    with pytest.raises(MismatchError, match="records of b in a folder of a"):
        values(tmp_path)


def test_full_disk_leaves_only_complete_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    journal = Journal(tmp_path, "a")
    journal.append([Number(1)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append([Number(2)])
    journal.append([Number(3)])
    only_file(tmp_path)
    assert values(tmp_path) == [1, 3]
