"""Journals: what was written before a crash is read, what a crash tore is dropped, nothing mixes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leaderboards.journal import Appender, read_records
from tcbench.errors import FileFormatError, MismatchError, TcbenchError
from tcbench.files import append_lines, locked, read_lines, write_atomically


@dataclass
class Number:
    value: int


def append(folder: Path, *values: int, folder_id: str = "a") -> None:
    with Appender(folder, folder_id) as appender:
        appender.append([Number(value) for value in values])


def values(folder: Path) -> list[int]:
    return [record["value"] for record in read_records(folder, "a")]


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("*.jsonl")
    return file


def test_every_start_has_a_file_and_readers_keep_their_order(tmp_path: Path) -> None:
    append(tmp_path, 1, 2)
    append(tmp_path, 3)
    assert len(list(tmp_path.iterdir())) == 2
    assert values(tmp_path) == [1, 2, 3]


def test_nothing_to_write_leaves_no_file(tmp_path: Path) -> None:
    append(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_dropped_at_every_length(tmp_path: Path) -> None:
    append(tmp_path, 1, 2)
    file = only_file(tmp_path)
    whole = file.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        file.write_bytes(whole[:length])
        assert values(tmp_path) == [1]


@pytest.mark.parametrize("line", [b"{torn", b"[1]"])
def test_a_damaged_line_inside_is_named(tmp_path: Path, line: bytes) -> None:
    append(tmp_path, 1)
    file = only_file(tmp_path)
    file.write_bytes(line + b"\n" + file.read_bytes())
    with pytest.raises(FileFormatError, match="line 1 is"):
        values(tmp_path)


def test_records_of_another_id_are_refused(tmp_path: Path) -> None:
    append(tmp_path, 1)
    append(tmp_path, 2, folder_id="b")
    with pytest.raises(MismatchError, match="records of b in a folder of a"):
        values(tmp_path)


def test_a_full_disk_takes_back_the_torn_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    with Appender(tmp_path, "a") as appender:
        appender.append([Number(1)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match="No space left"):
                appender.append([Number(2)])
        appender.append([Number(3)])
    assert values(tmp_path) == [1, 3]


def test_a_held_folder_is_refused_to_others_and_free_afterwards(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(TcbenchError, match="another process is working on"),
        locked(tmp_path / "run"),
    ):
        pass
    with locked(tmp_path / "run"):
        pass


def test_append_lines_cuts_a_torn_line_first(tmp_path: Path) -> None:
    file = tmp_path / "shared.jsonl"
    append_lines(file, [{"a": 1}, {"a": 2}])
    file.write_bytes(file.read_bytes()[:-2])
    append_lines(file, [{"a": 3}])
    assert list(read_lines(file)) == [{"a": 1}, {"a": 3}]


def test_write_atomically_leaves_the_old_file_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x"
    write_atomically(file, b"old")

    def fail(descriptor: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert file.read_bytes() == b"old"
