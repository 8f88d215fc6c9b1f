"""What weights were when they were first used: one small JSON file, so that no change of them passes unseen.

The file is $TCBENCH_WEIGHTS_LOCK, else weights.lock.json in the user's cache. It has three tables:

- ``weights``: origin (hub id@revision/file, URL or local path) to the sha256 that it had at its first use;
- ``converted``: sha256 of a file that `weights.convert` wrote to that of the checkpoint it was made of;
- ``files``: path to the sha256 of a large file while its size and time of change are these, so that it is not
  hashed at every start. `tcbench weights verify` does not believe this table.

It is replaced as a whole, by one process at a time. Where it cannot be written, that is said once and weights
are used unrecorded. Free of torch.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rewards.weights.hub import cache_folder
from tcbench.errors import FileFormatError

VARIABLE = "TCBENCH_WEIGHTS_LOCK"
VERSION = 1
ABOUT = "What weights were at their first use. Remove an entry, or the file, to take anew what is there."

KEEP_FROM_BYTES = 1 << 24
"""Smaller files are hashed in no time."""
SETTLED_NS = 2 * 10**9
"""A file that changed this lately may change again within the same tick of its file system's clock."""

Table = dict[str, dict[str, Any]]

_said: set[Path] = set()


@dataclass
class Lock:
    """The content of the file; every entry of a table has a "sha256"."""

    weights: Table = field(default_factory=dict)
    converted: Table = field(default_factory=dict)
    files: Table = field(default_factory=dict)


def place() -> Path:
    """Where the lock file is, or will be."""
    given = os.environ.get(VARIABLE)
    return (Path(given) if given else cache_folder() / "weights.lock.json").resolve()


def read() -> Lock:
    """What is recorded; nothing where there is no file yet. Raises `FileFormatError`."""
    path = place()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Lock()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read ({error.strerror}); set {VARIABLE}") from error
    except ValueError as error:
        raise _broken(path, "torn or no JSON") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise _broken(path, f"it does not say version {VERSION}")
    tables: dict[str, Any] = {name: content.get(name) for name in Lock.__dataclass_fields__}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise _broken(path, f"it has no table {name!r}")
        for key, entry in table.items():
            if not (isinstance(entry, dict) and re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256")))):
                raise _broken(path, f"{key!r} has no sha256")
    return Lock(**tables)


def record(origin: str, sha256: str) -> str:
    """The sha256 on record of ``origin``; if there was none, the given one, which is recorded now."""
    if origin not in (known := read().weights):
        _change_or_say(lambda lock: lock.weights.setdefault(origin, _entry(sha256)))
        known = read().weights  # another process may have been first
    return str(known.get(origin, {"sha256": sha256})["sha256"])


def accept(origin: str, sha256: str) -> None:
    """Take ``sha256`` as the right one of ``origin`` from now on. Raises OSError if it cannot be recorded."""
    _change(lambda lock: lock.weights.update({origin: _entry(sha256)}))


def record_conversion(made: str, source: str) -> None:
    """The file with the sha256 ``made`` holds the tensors of the one with the sha256 ``source``."""
    _change_or_say(lambda lock: lock.converted.update({made: _entry(source)}))


def source_of(made: str) -> str:
    """The sha256 of the checkpoint that the file with the sha256 ``made`` was made of; empty if unknown."""
    return str(read().converted.get(made, {"sha256": ""})["sha256"])


def kept(path: Path, stat: os.stat_result) -> str:
    """The sha256 of a large file that has not changed since it was hashed; else empty."""
    if stat.st_size < KEEP_FROM_BYTES:
        return ""
    entry = read().files.get(str(path), {})
    same = (entry.get("size"), entry.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
    return str(entry["sha256"]) if same else ""


def keep(path: Path, stat: os.stat_result, sha256: str) -> None:
    """Keep the sha256 of a large file; ``stat`` is from before it was hashed, when it `is_settled`."""
    if stat.st_size < KEEP_FROM_BYTES or kept(path, stat) == sha256:
        return
    entry = {"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}

    def put(lock: Lock) -> None:
        lock.files = {known: value for known, value in lock.files.items() if os.path.exists(known)}
        lock.files[str(path)] = entry

    _change_or_say(put)


def is_settled(stat: os.stat_result) -> bool:
    """Whether a further change of the file would show in its time of change."""
    return stat.st_mtime_ns < time.time_ns() - SETTLED_NS


def _entry(sha256: str) -> dict[str, str]:
    return {"sha256": sha256, "recorded": datetime.now(UTC).strftime("%Y-%m-%d")}


def _broken(path: Path, reason: str) -> FileFormatError:
    return FileFormatError(
        f"{path} is no lock file of tcbench's weights: {reason}; "
        f"remove it, and what is there is recorded anew, or set {VARIABLE} to another file"
    )


def _change_or_say(change: Callable[[Lock], object]) -> None:
    """`_change` the file, or say once that it cannot be written."""
    try:
        _change(change)
    except OSError as error:
        if place() not in _said:
            _said.add(place())
            print(
                f"note: {place()} cannot be written ({error.strerror}), so later changes of weights may pass "
                f"unseen; set {VARIABLE} to a file that can",
                file=sys.stderr,
            )


def _change(change: Callable[[Lock], object]) -> None:
    """Read, change and replace the file while no other process does."""
    path = place()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        lock = read()
        change(lock)
        _write(path, lock)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Other processes wait. The guard is a file of its own, as the lock file itself is replaced."""
    with path.with_name(f"{path.name}.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _write(path: Path, lock: Lock) -> None:
    text = json.dumps({"about": ABOUT, "version": VERSION, **asdict(lock)}, indent=1)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
