"""Long work as resumable cells: each is done once, some side by side, a core each.

A cell is a function of the work's folder, called in a process of its own kind. Its end is recorded in
``FOLDER/cells/<name>.json`` with a key of what it and all that it needs were asked, the seconds it took, and
which files are to be kept of it; what is recorded is not done again unless the key is another. What a cell
does is resumable itself. `records` takes what is kept to other machines.
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
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tcbench.files import locked, write_atomically
from tcbench.progress import Progress
from textcraftor.micro.training.stages import ONE_CORE

RECORDS = "cells"


class CellFailed(ValueError):
    """A cell that could not be done; the message names it and says why."""


@dataclass(frozen=True)
class Cell:
    """One piece of work. `run` is called in another process: it and what it is given can be pickled."""

    name: str
    minutes: float
    """Core-minutes that it takes."""
    run: Callable[..., Iterable[Path]]
    """Returns the files that tables are made of: what is kept of the cell."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """What `run` is called with, after the folder and a progress."""
    needs: tuple[str, ...] = ()
    """Cells that come before it."""
    light: bool = False
    """Whether what is kept of it is all that other cells need."""


def keys(cells: Sequence[Cell]) -> dict[str, str]:
    """By name, a hash of what a cell is asked, and what those are that it needs."""
    found: dict[str, str] = {}
    for cell in cells:  # each comes after what it needs
        asked = [cell.run.__module__, cell.run.__qualname__, cell.given, [found[n] for n in cell.needs]]
        found[cell.name] = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    return found


@dataclass(frozen=True)
class Record:
    """That a cell was done."""

    key: str
    seconds: float
    """Of the start that finished it."""
    keeps: Sequence[str]
    """Files, relative to the folder."""
    restored: bool = False
    """It was done elsewhere: only what it keeps is here."""

    def text(self) -> bytes:
        """As its file has it."""
        return (json.dumps(asdict(self)) + "\n").encode()

    @classmethod
    def read(cls, text: bytes) -> Record:
        """From its file."""
        return cls(**json.loads(text))


def record_of(folder: Path, name: str, key: str) -> Record | None:
    """None if a cell was not done as it is asked now."""
    file = folder / RECORDS / f"{name}.json"
    record = Record.read(file.read_bytes()) if file.is_file() else None
    return record if record and record.key == key else None


def undone(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """What is to be done: cells without a record; and of those that were done elsewhere, such as keep less
    than another one needs that is to be done.
    """
    asked = keys(cells)
    records = {cell.name: record_of(folder, cell.name, asked[cell.name]) for cell in cells}
    light = {cell.name for cell in cells if cell.light}
    found: set[str] = {name for name, record in records.items() if record is None}
    for cell in reversed(cells):  # each comes after what it needs
        if cell.name in found:
            found |= {n for n in cell.needs if n not in light and (r := records[n]) and r.restored}
    return [cell for cell in cells if cell.name in found]


def work(cells: Sequence[Cell], folder: Path, jobs: int, progress: Progress) -> None:
    """Do every cell that is not done, in order of place as far as needs allow, `jobs` at a time.

    Raises CellFailed for the first that cannot be done, when those beside it have ended, and RunFolderError
    while another process works in the folder.
    """
    asked = keys(cells)
    todo = {cell.name: cell for cell in undone(cells, folder)}
    left = sum(cell.minutes for cell in todo.values())
    progress.stage(f"cells, about {left:.0f} core-minutes left", len(cells), len(cells) - len(todo))
    os.environ.update(ONE_CORE)  # for the processes that are started now
    running: dict[Future[float], Cell] = {}
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_watch, initargs=(os.getpid(),))
    with locked(folder / RECORDS), pool:
        while todo or running:
            busy = {cell.name for cell in running.values()}
            for cell in _ready(todo, busy):
                if len(running) < jobs:
                    del todo[cell.name]
                    running[pool.submit(_do, cell, folder, asked[cell.name])] = cell
                    progress.note(f"{cell.name}, about {cell.minutes:.1f} core-minutes")
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                cell = running[future]
                if error := future.exception():
                    raise _failed(error, cell, list(running.values()), folder) from error
                del running[future]
                progress.note(f"{cell.name} took {future.result() / 60:.1f} min")
                progress.advance()


def _failed(error: BaseException, cell: Cell, running: Sequence[Cell], folder: Path) -> CellFailed:
    if isinstance(error, BrokenProcessPool):
        names = " and ".join(one.name for one in running)
        return CellFailed(
            f"a process ended by itself while it did {names}, perhaps for want of memory; what is done is "
            "kept, go on with fewer --jobs"
        )
    said = str(error) if isinstance(error, (ValueError, OSError)) else repr(error)
    return CellFailed(f"cell {cell.name}: {said}; what is done is kept, see {_log(folder, cell)}")


def _ready(todo: Mapping[str, Cell], busy: set[str]) -> Iterator[Cell]:
    """Cells that wait for none."""
    waiting = set(todo) | busy
    yield from [cell for cell in todo.values() if waiting.isdisjoint(cell.needs)]


def _watch(parent: int) -> None:
    """End this process when the one that started it is gone, lest it work on beside its successor."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do(cell: Cell, folder: Path, key: str) -> float:
    """Do it, in the process that it is given. Returns its seconds."""
    began = time.monotonic()
    with _log(folder, cell).open("a", encoding="utf-8") as log:
        try:
            kept = cell.run(folder, _Logged(partial(print, file=log, flush=True)), **cell.given)
            keeps = sorted(file.relative_to(folder).as_posix() for file in kept)
        except Exception:
            traceback.print_exc(file=log)
            raise
    took = time.monotonic() - began
    record = Record(key, round(took, 1), keeps)
    write_atomically(folder / RECORDS / f"{cell.name}.json", record.text())
    return took


def _log(folder: Path, cell: Cell) -> Path:
    return folder / RECORDS / f"{cell.name}.log"


@dataclass(frozen=True)
class _Logged:
    """Progress as lines of a file."""

    say: Callable[[str], None]

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self.say(f"{title}: {done} of {total}")

    def advance(self, count: int = 1) -> None: ...

    def note(self, message: str) -> None:
        self.say(message)
