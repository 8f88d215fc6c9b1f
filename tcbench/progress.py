"""What long work tells its caller. The CLI draws bars or prints lines; tests and scripts may stay silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives stages of work, one after another, and remarks."""

    def stage(self, title: str, total: int, done: int = 0) -> None:
        """A stage of `total` images begins, `done` of which were finished by an earlier start."""

    def advance(self, count: int = 1) -> None:
        """`count` more images of the stage are on disk."""

    def note(self, message: str) -> None:
        """Something the user should know, in one line."""


class Silent:
    """Says nothing."""

    def stage(self, title: str, total: int, done: int = 0) -> None: ...

    def advance(self, count: int = 1) -> None: ...

    def note(self, message: str) -> None: ...
