"""Saying all at once what a job lacks, instead of one thing at each start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from benchmarks.suites.base import MissingPrompts
from rewards.weights.locate import MissingWeights
from textcraftor.diffusion.pipeline import MissingPipeline
from textcraftor.rewriters import MissingRewriter

Found = TypeVar("Found")


class Missing(ValueError):
    """Several things that are not on this machine; the message says of each how to get it."""

    def __init__(self, errors: Iterable[ValueError]) -> None:
        self.errors = tuple(errors)
        listed = " ".join(f"({number}) {error}." for number, error in enumerate(self.errors, 1))
        super().__init__(f"{len(self.errors)} things are missing: {listed}")


class Search:
    """Looks for one thing after the other and remembers what was not found."""

    def __init__(self) -> None:
        self._errors: list[ValueError] = []

    def find(self, finder: Callable[[], Found]) -> Found | None:
        """What `finder` finds, or None if it is missing."""
        try:
            return finder()
        except Missing as error:
            self._errors += error.errors
        except (MissingPrompts, MissingWeights, MissingPipeline, MissingRewriter) as error:
            self._errors.append(error)
        return None

    def check(self) -> None:
        """Raise the one error, or `Missing` for several."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise Missing(self._errors)
