"""Long work in resumable cells: each is finished once, several run at a time in processes of one core each.

A cell is a function that is called with the folder of the work. When it ends, ``FOLDER/cells/<name>.json``
records a key (a hash of the cell's task and options and of the keys of the cells it needs), the seconds it
took, and those of its files that other machines need. A cell with a record of the same key is not run again.
Whatever a cell does must be resumable by itself: an interrupted cell is called again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tcbench.errors import TcbenchError
from tcbench.files import locked, write_atomically
from tcbench.progress import Progress

CELLS = "cells"
"""Subfolder of the work with a record and a log of each cell."""

ONE_CORE = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # By default glibc returns large blocks to the system at once, and each training step faults them in
    # again. Keeping them made a step of the embedded UNet 1.2 times as fast.
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Environment of a process that works on one CPU core."""

PREDECESSOR_WAIT_S = 10.0
"""How long a cell waits for a process of an earlier start that has not ended yet."""


@dataclass(frozen=True)
class WorkCell:
    """One piece of work. It is sent to another process, so ``run`` and ``options`` must be picklable."""

    name: str
    task: str
    """Stable name of what is done. It is part of the key; the name of ``run`` is not, so code can move."""
    run: Callable[..., Iterable[Path]]
    """Called as ``run(folder, progress, **options)``; returns the files that archives need."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of ``run``, as JSON has them. They are part of the key."""
    needs: tuple[str, ...] = ()
    """Names of cells that must be finished first; they come earlier in the list of cells."""
    minutes: float = 0.0
    """Estimated core-minutes."""
    light: bool = False
    """Whether the archived files are all that other cells need from this one."""


@dataclass(frozen=True)
class CellRecord:
    """Content of ``cells/<name>.json``: the cell is finished."""

    key: str
    seconds: float
    """Wall time of the start that finished the cell."""
    keeps: Sequence[str]
    """Files to archive, relative to the folder of the work."""
    restored: bool = False
    """The cell was finished on another machine, and only the archived files are here."""

    @property
    def content(self) -> bytes:
        """Content of the record's file."""
        return (json.dumps(asdict(self)) + "\n").encode()

    @classmethod
    def read(cls, folder: Path, name: str, key: str | None = None) -> CellRecord | None:
        """Read the record of a cell; None if it is not finished, or not with ``key`` if one is given."""
        path = folder / CELLS / f"{name}.json"
        record = cls(**json.loads(path.read_bytes())) if path.is_file() else None
        return None if record is None or key not in (None, record.key) else record

    def write(self, folder: Path, name: str) -> None:
        """Write the record of a cell."""
        write_atomically(folder / CELLS / f"{name}.json", self.content)


def cell_keys(cells: Sequence[WorkCell]) -> dict[str, str]:
    """Return the key of each cell, by name. A cell's key changes with those of the cells it needs."""
    keys: dict[str, str] = {}
    for cell in cells:
        identity = [cell.task, cell.options, [keys[name] for name in cell.needs]]
        keys[cell.name] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return keys


def unfinished_cells(cells: Sequence[WorkCell], folder: Path) -> list[WorkCell]:
    """Return the cells to run: those without a record, and restored ones that lack files that these need."""
    keys = cell_keys(cells)
    records = {cell.name: CellRecord.read(folder, cell.name, keys[cell.name]) for cell in cells}
    light = {cell.name for cell in cells if cell.light}
    unfinished = {name for name, record in records.items() if record is None}
    for cell in reversed(cells):  # from the end, so that one pass also covers indirect needs
        if cell.name in unfinished:
            unfinished |= {n for n in cell.needs if n not in light and (r := records[n]) and r.restored}
    return [cell for cell in cells if cell.name in unfinished]


def run_cells(
    cells: Sequence[WorkCell],
    folder: Path,
    jobs: int,
    progress: Progress,
    *,
    environment: Mapping[str, str] = ONE_CORE,
    watch: Callable[[Sequence[str]], None] = lambda running: None,
) -> None:
    """Run every unfinished cell, in order, once the cells that it needs are finished.

    Args:
        cells: All cells of the work, each after the cells it needs.
        folder: Folder of the work.
        jobs: Number of processes.
        progress: Receives one stage of all cells and a note at each cell's start and end.
        environment: Environment variables of the processes.
        watch: Called about once a second with the names of the running cells.

    Raises:
        TcbenchError: If a cell fails, after the cells that run beside it have ended; or if another process
            works in the folder.
    """
    keys = cell_keys(cells)
    todo = {cell.name: cell for cell in unfinished_cells(cells, folder)}
    minutes = sum(cell.minutes for cell in todo.values())
    progress.stage(f"cells, about {minutes:.0f} core-minutes left", len(cells), len(cells) - len(todo))
    running: dict[Future[float], WorkCell] = {}
    # "spawn", because a forked copy of a process that has run torch threads can deadlock.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent, (os.getpid(),))
    with locked(folder / CELLS), _environment(environment), pool:
        while todo or running:
            for cell in _ready(todo, {cell.name for cell in running.values()}):
                if len(running) < jobs:
                    del todo[cell.name]
                    running[pool.submit(_run_cell, cell, folder, keys[cell.name])] = cell
                    progress.note(f"{cell.name}: started, about {cell.minutes:.1f} core-minutes")
            ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in ended:
                cell = running[future]
                if error := future.exception():
                    raise _failure(error, cell, list(running.values()), folder) from error
                del running[future]
                progress.note(f"{cell.name}: finished in {future.result() / 60:.1f} min")
                progress.advance()
            watch([cell.name for cell in running.values()])


def _failure(error: BaseException, cell: WorkCell, running: Sequence[WorkCell], folder: Path) -> TcbenchError:
    if isinstance(error, BrokenProcessPool):
        names = " and ".join(one.name for one in running)
        return TcbenchError(
            f"a process was killed while it ran {names}, perhaps because memory ran out; finished work is "
            "kept: run the command again with fewer --jobs"
        )
    reason = str(error) if isinstance(error, (ValueError, OSError)) else repr(error)
    return TcbenchError(
        f"cell {cell.name}: {reason}; finished work is kept: fix this and run the command again "
        f"(log: {_log_path(folder, cell)})"
    )


def _ready(todo: Mapping[str, WorkCell], running: set[str]) -> Iterator[WorkCell]:
    """Return the cells whose needed cells are all finished."""
    waiting = set(todo) | running
    yield from [cell for cell in todo.values() if waiting.isdisjoint(cell.needs)]


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which processes started within the block inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent, even a killed one, so that two starts never write one file."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_cell(cell: WorkCell, folder: Path, key: str) -> float:
    """Run a cell in this process and record that it is finished. Returns its seconds."""
    began = time.monotonic()
    with _held(folder, cell), _log_path(folder, cell).open("a", encoding="utf-8") as log:
        try:
            kept = cell.run(folder, _LogProgress(partial(print, file=log, flush=True)), **cell.options)
            keeps = sorted(file.relative_to(folder).as_posix() for file in kept)
        except Exception:
            traceback.print_exc(file=log)
            raise
    seconds = time.monotonic() - began
    CellRecord(key, round(seconds, 1), keeps).write(folder, cell.name)
    return seconds


@contextmanager
def _held(folder: Path, cell: WorkCell) -> Iterator[None]:
    """Hold a cell for this process. One of an earlier start, whose parent was killed, may not have ended."""
    try:
        with FileLock(folder / CELLS / f"{cell.name}.lock", timeout=PREDECESSOR_WAIT_S):
            yield
    except Timeout as error:
        raise TcbenchError(
            f"another process is running {cell.name} in {folder}: wait for it or end it"
        ) from error


def _log_path(folder: Path, cell: WorkCell) -> Path:
    return folder / CELLS / f"{cell.name}.log"


@dataclass(frozen=True)
class _LogProgress:
    """Writes progress as lines of a log."""

    write: Callable[[str], None]

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self.write(f"{title}: {done} of {total}")

    def advance(self, count: int = 1, status: str = "") -> None: ...

    def note(self, message: str) -> None:
        self.write(message)
