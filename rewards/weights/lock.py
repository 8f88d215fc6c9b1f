"""Hashes of weights at their first use, in one JSON file, so that a later change of them is noticed.

The file is $TCBENCH_WEIGHTS_LOCK, else ``weights.lock.json`` in the user's cache. Its tables are:

- ``weights``: origin (hub id@revision/file, URL or local path) -> sha256 at the first use;
- ``converted``: sha256 of a file that `rewards.weights.convert` wrote -> sha256 of the source checkpoint;
- ``files``: path -> sha256 of a large file, valid while its size and modification time are the recorded
  ones, so that it is not hashed at every start. `tcbench weights verify` ignores this table.

If the file cannot be written, a note is printed once and weights are used unrecorded. Free of torch.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from rewards.weights.hub import cache_folder
from tcbench import files
from tcbench.errors import FileFormatError

LOCK_VARIABLE = "TCBENCH_WEIGHTS_LOCK"

_VERSION = 1
_ABOUT = (
    "Hashes of weights at their first use. Remove an entry, or the file, to record the current weights again."
)

_LARGE_BYTES = 1 << 24
"""Files below this size are hashed at every start: that takes no noticeable time."""
_SETTLED_NS = 2 * 10**9
"""A file modified more recently than this may change again without a change of its modification time."""

_Table = dict[str, dict[str, Any]]

_separate: ContextVar[Path | None] = ContextVar("separate lock file", default=None)
"""Lock file within `WeightsLock.separate`."""

_unwritable: set[Path] = set()  # files for which the note was printed
_hashes: dict[tuple[Path, int, int], str] = {}  # this process's hashes by path, size, modification time


@dataclass
class _Tables:
    """Content of the file; every entry of a table has a "sha256"."""

    weights: _Table = field(default_factory=dict)
    converted: _Table = field(default_factory=dict)
    files: _Table = field(default_factory=dict)


class WeightsLock:
    """The lock file.

    It is read at every call, because other processes change it too, and replaced atomically.

    Args:
        path: The file; by default $TCBENCH_WEIGHTS_LOCK, else one in the user's cache.

    Raises:
        FileFormatError: From every method, if the file is damaged or is not a lock file.
    """

    def __init__(self, path: Path | None = None) -> None:
        given = path or _separate.get() or os.environ.get(LOCK_VARIABLE)
        self.path = (Path(given) if given else cache_folder() / "weights.lock.json").resolve()

    @staticmethod
    @contextmanager
    def separate(path: Path) -> Iterator[None]:
        """Use another lock file inside the block, for temporary weights."""
        token = _separate.set(path)
        try:
            yield
        finally:
            _separate.reset(token)

    def recorded(self) -> dict[str, str]:
        """Return the recorded sha256 of all weights by origin."""
        return {origin: entry["sha256"] for origin, entry in self._read().weights.items()}

    def first_use(self, origin: str, digest: str) -> str:
        """Return the recorded sha256 of ``origin``; record ``digest`` and return it if there is none."""
        recorded = self.recorded()
        if origin not in recorded:
            self._try_change(lambda tables: tables.weights.setdefault(origin, _entry(digest)))
            recorded = self.recorded()  # another process may have been first
        return recorded.get(origin, digest)

    def accept(self, origin: str, digest: str) -> None:
        """Record ``digest`` as the right sha256 of ``origin`` from now on.

        Raises:
            OSError: If the file cannot be written.
        """
        self._change(lambda tables: tables.weights.update({origin: _entry(digest)}))

    def record_conversion(self, converted: str, source: str) -> None:
        """Record that the file with the sha256 ``converted`` holds the tensors of that with ``source``."""
        self._try_change(lambda tables: tables.converted.update({converted: _entry(source)}))

    def source_of(self, converted: str) -> str:
        """Return the sha256 of the checkpoint that a file was converted from; empty if unknown."""
        return str(self._read().converted.get(converted, {"sha256": ""})["sha256"])

    def cached_files(self) -> dict[str, str]:
        """Return the remembered sha256 of large files by path."""
        return {path: entry["sha256"] for path, entry in self._read().files.items()}

    def sha256(self, path: Path, *, fresh: bool = False) -> str:
        """Return the sha256 of a file, in hex.

        Args:
            path: The file.
            fresh: Hash the file even if its size and modification time are those of an earlier hash.
        """
        stat, resolved = path.stat(), path.resolve()
        # Decided before hashing: a file that changes meanwhile must not count as settled.
        settled = stat.st_mtime_ns < time.time_ns() - _SETTLED_NS
        stamp = (resolved, stat.st_size, stat.st_mtime_ns)
        digest = "" if fresh else _hashes.get(stamp) or self._remembered(resolved, stat)
        if not digest:
            digest = files.sha256(path)
            if settled:
                self._remember(resolved, stat, digest)
        _hashes[stamp] = digest
        return digest

    def _remembered(self, path: Path, stat: os.stat_result) -> str:
        """Return the sha256 of a large file that has not changed since it was hashed, else ""."""
        if stat.st_size < _LARGE_BYTES:
            return ""
        entry = self._read().files.get(str(path), {})
        unchanged = (entry.get("size"), entry.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
        return str(entry["sha256"]) if unchanged else ""

    def _remember(self, path: Path, stat: os.stat_result, digest: str) -> None:
        """Keep the sha256 of a large file; ``stat`` is from before it was hashed."""
        if stat.st_size < _LARGE_BYTES or self._remembered(path, stat) == digest:
            return
        entry = {"sha256": digest, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}

        def put(tables: _Tables) -> None:
            tables.files = {name: row for name, row in tables.files.items() if os.path.exists(name)}
            tables.files[str(path)] = entry

        self._try_change(put)

    def _read(self) -> _Tables:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return _Tables()
        except OSError as error:
            raise FileFormatError(
                f"{self.path} cannot be read ({error.strerror}); set {LOCK_VARIABLE} to a file"
            ) from error
        except ValueError as error:
            raise self._invalid("it is not valid JSON") from error
        if not isinstance(content, dict) or content.get("version") != _VERSION:
            raise self._invalid(f"it does not have version {_VERSION}")
        tables: dict[str, Any] = {name: content.get(name) for name in _Tables.__dataclass_fields__}
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise self._invalid(f"it has no table {name!r}")
            for key, entry in table.items():
                if not (isinstance(entry, dict) and re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256")))):
                    raise self._invalid(f"{key!r} has no sha256")
        return _Tables(**tables)

    def _invalid(self, reason: str) -> FileFormatError:
        return FileFormatError(
            f"{self.path} is not a lock file of tcbench's weights: {reason}; remove it to record the "
            f"weights again, or set {LOCK_VARIABLE} to another file"
        )

    def _try_change(self, change: Callable[[_Tables], object]) -> None:
        try:
            self._change(change)
        except OSError as error:
            # Scoring must work on a read-only machine, so this is a note and no error; once is enough.
            if self.path not in _unwritable:
                _unwritable.add(self.path)
                print(
                    f"note: {self.path} cannot be written ({error.strerror}), so changed weights may go "
                    f"unnoticed; set {LOCK_VARIABLE} to a writable file",
                    file=sys.stderr,
                )

    def _change(self, change: Callable[[_Tables], object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A separate file is locked, because the lock file itself is replaced.
        with FileLock(self.path.with_name(f"{self.path.name}.guard")):
            tables = self._read()
            change(tables)
            content = {"about": _ABOUT, "version": _VERSION, **asdict(tables)}
            files.write_atomically(self.path, (json.dumps(content, indent=1) + "\n").encode())


def _entry(digest: str) -> dict[str, str]:
    return {"sha256": digest, "recorded": datetime.now(UTC).strftime("%Y-%m-%d")}
