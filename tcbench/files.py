"""Files that survive a crash: atomic writes, locks, hashes and JSON lines. Free of torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout

from tcbench.errors import ConfigError, FileFormatError, TcbenchError

_BLOCK_BYTES = 1 << 16
"""How much of a file is read at once to find the end of its last line."""

LOCK_FILE = ".tcbench.lock"
"""Lock of a folder that one process writes (`locked`)."""

_OLD = ".old"
"""Suffix of the hidden name of a folder that `new_folder` is replacing."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a temporary file that takes the place of ``path`` when the block ends without an error.

    It is synced before it is renamed: a reader sees all of it or nothing, and an error leaves the old file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a file at once, see `new_file`.

    Raises:
        OSError: If the disk is full or read-only; the old file is unchanged.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def check_writable(folder: Path, option: str = "--out", *, new: bool = False) -> None:
    """Check that files can be written into a folder, which is created later if it does not exist.

    Commands call it before their work, so that hours are not lost.

    Args:
        folder: The folder.
        option: Where it was given, for the message.
        new: Whether it must not exist, or be empty.

    Raises:
        ConfigError: If it is a file, within one, or write-protected; or not empty where it must be new.
    """
    path = folder.absolute()
    parent = next(part for part in (path, *path.parents) if os.path.lexists(part))
    if not parent.is_dir():
        raise ConfigError(f"Not a directory: {parent}; give {option} a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"Not writable: {parent}; give {option} another folder")
    if new and parent == path and any(path.iterdir()):
        raise ConfigError(f"{folder} exists already; choose another {option}")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder that takes the place of ``path`` when the block ends without an error.

    Everything is synced first. A crash between the two renames is repaired by `locked`.

    Raises:
        ConfigError: If nothing can be written there.
    """
    check_writable(path)
    temporary, old = path.with_name(f".{path.name}.part"), _replaced(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(temporary, path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; the system releases it when the process ends, however it ends.

    What a killed process left is repaired: temporary files (`new_file`) are removed, and a folder in it is
    put back if the process ended between the two renames of `new_folder`.

    Raises:
        TcbenchError: If another process holds the folder.
        ConfigError: If nothing can be written there.
    """
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TcbenchError(f"another process is working on {folder}: wait for it or end it") from error
    try:
        for left in list(folder.rglob(".*")):
            if left.suffix == ".tmp":
                left.unlink()
            name = left.name[1:].removesuffix(_OLD)
            # A name that is only the suffix, such as "..old", is not one of `new_folder`.
            if left.suffix == _OLD and name.strip(".") and left.is_dir():
                path = left.with_name(name)
                if not path.exists():
                    os.rename(left, path)
        yield
    finally:
        lock.release()


def visible(files: Iterable[Path]) -> list[Path]:
    """Return the files that a user sees, sorted.

    macOS writes `._a.png` beside `a.png` on foreign disks and `__MACOSX/` into archives; neither holds what
    its suffix says.
    """
    return sorted(file for file in files if file.name[0] != "." and "__MACOSX" not in file.parts)


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON lines file; an incomplete last line, left by a crash, is dropped.

    Returns:
        One mapping a line; an empty list if the file does not exist.

    Raises:
        FileFormatError: If a line is not a JSON object.
    """
    if not file.exists():
        return []
    *lines, _torn = file.read_bytes().split(b"\n")
    try:
        records: list[Any] = orjson.loads(b"[%s]" % b",".join(lines))  # in one call: a board reads millions
    except ValueError:
        records = []
    if len(records) != len(lines):
        records = list(_parse_each(file, lines))
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise FileFormatError(
                f"{file}, line {number} is not a record: remove the line, its work is repeated"
            )
    return records


def append_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records to a JSON lines file, after removing an incomplete last line, and sync it.

    Raises:
        OSError: If the disk is full or read-only; earlier lines are unchanged.
        ValueError: If a number is NaN or infinite.
    """
    # NaN and infinity are refused: JSON has no such numbers.
    data = "".join(
        json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records
    ).encode()
    if not data:
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = _end_of_last_line(descriptor)
        try:
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def _end_of_last_line(descriptor: int) -> int:
    """Return the size of a file without an incomplete last line; only its last blocks are read."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - _BLOCK_BYTES)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _parse_each(file: Path, lines: Iterable[bytes]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise FileFormatError(
                f"{file}, line {number} is damaged ({error}): remove the line, its work is repeated"
            ) from error


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}{_OLD}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
