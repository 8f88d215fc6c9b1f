"""Files survive a crash: old content or new content, complete lines, one process per folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tcbench.errors import ConfigError, FileFormatError, TcbenchError
from tcbench.files import (
    LOCK_FILE,
    append_lines,
    check_writable,
    locked,
    new_folder,
    read_lines,
    sha256,
    write_atomically,
)


def test_lock_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(TcbenchError, match="another process is working on"),
        locked(tmp_path / "run"),
    ):
        pass
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("block", [1, 5, 1 << 16])
def test_append_lines_removes_an_incomplete_last_line(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcbench.files._BLOCK_BYTES", block)
    file = tmp_path / "shared.jsonl"
    append_lines(file, [{"a": 1}, {"a": 2}])
    file.write_bytes(file.read_bytes()[:-2])
    append_lines(file, [{"a": 3}])
    assert list(read_lines(file)) == [{"a": 1}, {"a": 3}]


def test_write_atomically_keeps_the_old_file_on_failure(
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


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a": 1}\n{"a": \n{"a": 3}\n', "line 2 is damaged"), (b'{"a": 1}\n7\n', "line 2 is not a record")],
)
def test_a_damaged_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        read_lines(file)


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_lines(tmp_path / "lines.jsonl", [{"a": float("nan")}])
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_for_no_records(tmp_path: Path) -> None:
    append_lines(tmp_path / "lines.jsonl", [])
    assert not list(tmp_path.iterdir())


def fill(folder: Path, *names: str) -> None:
    """Replace a folder by one with these files."""
    with new_folder(folder) as path:
        for name in names:
            (path / name).touch()


def test_new_folder_replaces_the_old_one_only_when_complete(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    fill(folder, "a")
    with pytest.raises(FileNotFoundError):
        fill(folder, "b", "no/such/folder")
    assert [file.name for file in folder.iterdir()] == ["a"]
    fill(folder, "b")
    assert [file.name for file in folder.iterdir()] == ["b"]
    assert [file.name for file in tmp_path.iterdir()] == ["weights"]


def test_a_lock_undoes_a_replacement_that_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "weights", os.rename
    fill(folder, "a")

    def killed(source: Path, target: Path) -> None:
        if target == folder:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(folder, "b")
    monkeypatch.undo()
    assert not folder.exists()
    for _ in range(2):  # the second time, nothing is left to do
        with locked(tmp_path):
            pass
    assert [file.name for file in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("name", [".old", "..old", "...old", ".git", ". old"])
def test_a_lock_leaves_other_hidden_folders_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with locked(tmp_path):
        pass
    assert (tmp_path / name).is_dir()


def test_a_folder_that_cannot_be_written_is_refused_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "nowhere"):
        for write in (locked, new_folder):
            with pytest.raises(ConfigError, match=r"^Not a directory: .*; give --out a folder$"), write(path):
                pytest.fail("nothing can be written there")
        with pytest.raises(ConfigError, match=r"^Not a directory: .*; give memory.prefix_cache a folder$"):
            check_writable(path, "memory.prefix_cache")
    check_writable(tmp_path / "new" / "folder", new=True)
    check_writable(tmp_path)
    with pytest.raises(ConfigError, match="exists already; choose another --out"):
        check_writable(tmp_path, new=True)
    assert not (tmp_path / "new").exists()


def test_a_lock_removes_temporary_files_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / ".x.7.tmp").write_text("half")
    with locked(tmp_path):
        assert [file.name for file in tmp_path.iterdir()] == [LOCK_FILE]


def test_sha256_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"content").hexdigest()
