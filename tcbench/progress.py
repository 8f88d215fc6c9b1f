"""Progress reports of long work. The command line shows bars or lines; tests and scripts may stay silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of work that is done in stages, one after another."""

    def stage(self, title: str, total: int, done: int = 0) -> None:
        """Begin a stage of ``total`` images, ``done`` of which an earlier start has finished."""

    def advance(self, count: int = 1, status: str = "") -> None:
        """Report that ``count`` more images of the stage are on disk, and show a short ``status``."""

    def note(self, message: str) -> None:
        """Show the user a message of one line."""


class Silent:
    """A `Progress` that reports nothing."""

    def stage(self, title: str, total: int, done: int = 0) -> None: ...

    def advance(self, count: int = 1, status: str = "") -> None: ...

    def note(self, message: str) -> None: ...
