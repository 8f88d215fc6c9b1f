"""Progress on stderr: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tcbench.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

_LINE_SECONDS = 10.0
"""Shortest time between two lines of one stage."""


def show_progress() -> _Bars | _Lines:
    """Return bars if stderr is a terminal, otherwise lines; use as a context manager."""
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Bars:
    """One live bar per stage, with rate and time left (rich)."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Live

        self._live = Live(
            TextColumn("{task.description:>16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>9}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._clock = _Clock()

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self._clock = _Clock()
        self._task = self._live.add_task(title, total=total, completed=done, rate="", status="")

    def advance(self, count: int = 1, status: str = "") -> None:
        assert self._task is not None  # stage() comes first
        self._clock.count += count
        self._live.update(self._task, advance=count, rate=f"{self._clock.rate:.1f}/s", status=status)

    def note(self, message: str) -> None:
        self._live.console.print(f"note: {message}", markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


class _Lines:
    """A line when a stage begins, every ten seconds, and when it ends."""

    def __init__(self) -> None:
        self._title, self._total, self._done = "", 0, 0
        self._clock, self._printed = _Clock(), 0.0

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done, self._clock = title, total, done, _Clock()
        self._printed = time.monotonic()
        _print(f"{title}: {done} of {total} done" + (", nothing to do" if done == total else ""))

    def advance(self, count: int = 1, status: str = "") -> None:
        self._done += count
        self._clock.count += count
        if self._done < self._total and time.monotonic() - self._printed < _LINE_SECONDS:
            return
        self._printed = time.monotonic()
        left = (self._total - self._done) / self._clock.rate
        line = f"{self._title}: {self._done} of {self._total}, {self._clock.rate:.2g}/s, {left:.0f} s left"
        _print(f"{line}; {status}" if status else line)

    def note(self, message: str) -> None:
        _print(f"note: {message}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _Clock:
    """Counts work since its creation; the rate is never 0 once anything is counted."""

    def __init__(self) -> None:
        self.start, self.count = time.monotonic(), 0

    @property
    def rate(self) -> float:
        return self.count / max(time.monotonic() - self.start, 1e-6)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_: type[Progress] = _Lines  # the type checker verifies that both implement the protocol
_ = _Bars
