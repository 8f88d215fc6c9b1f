"""Long work as resumable cells: each is done once, some side by side, a core each.

A cell is a function of the work's folder, in a process of its own kind. Its end is recorded in
``FOLDER/cells/<name>.json`` with what it was asked and the seconds it took; what is recorded is not done
again unless it is asked otherwise. What a cell does is resumable itself.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from leaderboards.journal import write_atomically
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

    def asked(self) -> str:
        """What it is, to be compared with what was done."""
        return f"{self.run.__module__}.{self.run.__qualname__}({json.dumps(self.given, sort_keys=True)})"


@dataclass(frozen=True)
class Done:
    """The record of a finished cell."""

    asked: str
    seconds: float
    """Of the start that finished it."""


def done(folder: Path, cell: Cell) -> Done | None:
    """Its record, if it was done as it is asked now."""
    file = folder / RECORDS / f"{cell.name}.json"
    if not file.is_file():
        return None
    found = Done(**json.loads(file.read_text(encoding="utf-8")))
    return found if found.asked == cell.asked() else None


def work(cells: Sequence[Cell], folder: Path, jobs: int, progress: Progress) -> None:
    """Do every cell that is not done, in order of need, then of place, `jobs` at a time.

    Raises CellFailed for the first that cannot be done, when those beside it have ended.
    """
    todo = {cell.name: cell for cell in cells if done(folder, cell) is None}
    left = sum(cell.minutes for cell in todo.values())
    progress.stage(f"cells, about {left:.0f} core-minutes left", len(cells), len(cells) - len(todo))
    os.environ.update(ONE_CORE)  # for the processes that are started now
    running: dict[Future[float], Cell] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        while todo or running:
            busy = {cell.name for cell in running.values()}
            for cell in _ready(todo, busy):
                if len(running) < jobs:
                    del todo[cell.name]
                    running[pool.submit(_do, cell, folder)] = cell
                    progress.note(f"{cell.name}, about {cell.minutes:g} core-minutes")
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                cell = running.pop(future)
                if error := future.exception():
                    raise CellFailed(
                        f"cell {cell.name}: {error}; what is done is kept, see {_log(folder, cell)}"
                    ) from error
                progress.note(f"{cell.name} took {future.result() / 60:.1f} min")
                progress.advance()


def _ready(todo: Mapping[str, Cell], busy: set[str]) -> Iterator[Cell]:
    """Cells that wait for none."""
    waiting = set(todo) | busy
    yield from [cell for cell in todo.values() if waiting.isdisjoint(cell.needs)]


def _do(cell: Cell, folder: Path) -> float:
    """Do it, in the process that it is given. Returns its seconds."""
    began = time.monotonic()
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    with _log(folder, cell).open("a", encoding="utf-8") as log:
        cell.run(folder, _Logged(partial(print, file=log, flush=True)), **cell.given)
    seconds = time.monotonic() - began
    record = {"asked": cell.asked(), "seconds": round(seconds, 1)}
    write_atomically(folder / RECORDS / f"{cell.name}.json", (json.dumps(record) + "\n").encode())
    return seconds


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
