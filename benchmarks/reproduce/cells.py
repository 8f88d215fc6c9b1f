"""Long work as resumable cells: each is done once, some side by side, a core each.

A cell is a function of the work's folder, called in a process of its own kind. Its end is recorded in
``FOLDER/cells/<name>.json`` with a key of what it and all that it needs were asked, and the seconds it took;
what is recorded is not done again unless the key is another. What a cell does is resumable itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from leaderboards.journal import exclusive, write_atomically
from textcraftor.micro.build import ONE_CORE
from textcraftor.progress import Progress

RECORDS = "cells"


class CellFailed(ValueError):
    """A cell that could not be done; the message names it and says why."""


@dataclass(frozen=True)
class Cell:
    """One piece of work. `run` is called in another process: it and what it is given can be pickled."""

    name: str
    minutes: float
    """Core-minutes that it takes."""
    run: Callable[..., None]
    given: Mapping[str, Any] = field(default_factory=dict)
    """What `run` is called with, after the folder and a progress."""
    needs: tuple[str, ...] = ()
    """Cells that come before it."""


def keys(cells: Sequence[Cell]) -> dict[str, str]:
    """By name, a hash of what a cell is asked, and what those are that it needs."""
    found: dict[str, str] = {}
    for cell in cells:  # each comes after what it needs
        asked = [cell.run.__module__, cell.run.__qualname__, cell.given, [found[n] for n in cell.needs]]
        found[cell.name] = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    return found


def seconds(folder: Path, name: str, key: str) -> float | None:
    """What the start that finished a cell took; None if it was not done as it is asked now."""
    file = folder / RECORDS / f"{name}.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return record["seconds"] if record.get("key") == key else None


def work(cells: Sequence[Cell], folder: Path, jobs: int, progress: Progress) -> None:
    """Do every cell that is not done, in order of place as far as needs allow, `jobs` at a time.

    Raises CellFailed for the first that cannot be done, when those beside it have ended, and RunFolderError
    while another process works in the folder.
    """
    asked = keys(cells)
    todo = {cell.name: cell for cell in cells if seconds(folder, cell.name, asked[cell.name]) is None}
    left = sum(cell.minutes for cell in todo.values())
    progress.stage(f"cells, about {left:.0f} core-minutes left", len(cells), len(cells) - len(todo))
    os.environ.update(ONE_CORE)  # for the processes that are started now
    running: dict[Future[float], Cell] = {}
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_watch, initargs=(os.getpid(),))
    with exclusive(folder / RECORDS), pool:
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
            cell.run(folder, _Logged(partial(print, file=log, flush=True)), **cell.given)
        except Exception:
            traceback.print_exc(file=log)
            raise
    took = time.monotonic() - began
    record = {"key": key, "seconds": round(took, 1)}
    write_atomically(folder / RECORDS / f"{cell.name}.json", (json.dumps(record) + "\n").encode())
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
