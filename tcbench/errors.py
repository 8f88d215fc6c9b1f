"""Errors that a user can fix. Each class carries the exit code that the command line ends with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import chain
from types import MappingProxyType
from typing import TypeVar

T = TypeVar("T")

_LISTED = 90
"""Characters up to which a message lists names, so that it stays within two lines of a terminal."""


class TcbenchError(ValueError):
    """Base class. The message says what was given, what was expected, and how to fix it, in one line."""

    exit_code = 1
    """Exit code of the command line."""
    download = False
    """Whether a download would fix it."""

    @staticmethod
    def listed(names: Iterable[object]) -> str:
        """Return names for a message: all of them, or of many the first ones and their number."""
        texts = [str(name) for name in names]
        shown = len(texts)
        while shown > 1 and len(", ".join(texts[:shown])) > _LISTED:
            shown -= 1
        others = [f"and {len(texts) - shown} more"] if shown < len(texts) else []
        return ", ".join(texts[:shown] + others) or "none"


class UnknownName(TcbenchError):
    """A name that is not in a table; the message offers close matches.

    Args:
        kind: What the name should be, such as "reward".
        given: The name that was given.
        known: The names that exist.
        source: Where the name was given, such as a file; the message begins with it.
        hint: What else can be given; the message ends with it.
        listing: Command that lists the names, for messages where they are too many.
        synonyms: Names by other words for them; such a word is no misspelling of a name that looks like it.
    """

    exit_code = 2

    def __init__(
        self,
        kind: str,
        given: str,
        known: Iterable[str],
        *,
        source: str = "",
        hint: str = "",
        listing: str = "",
        synonyms: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.kind, self.given, self.known, self.hint, self.listing = kind, given, tuple(known), hint, listing
        self.synonyms = synonyms
        prefix = f"{source}: " if source else ""
        # "World_Clip" is close to "world-clip"
        by_spelling = {_spelling(name): name for name in self.known}
        close = [by_spelling[s] for s in get_close_matches(_spelling(given), by_spelling, n=3, cutoff=0.5)]
        if _spelling(given) in synonyms:
            close = [synonyms[_spelling(given)]]
        names = self.listed(self.known)
        if listing and len(names) < len(", ".join(self.known)):
            names += f" (`{listing}`)"
        matches = f"did you mean {' or '.join(close)}?" if close else f"available: {names}"
        super().__init__("; ".join(filter(None, [f"{prefix}unknown {kind} {given!r}", matches, hint])))


def _spelling(name: str) -> str:
    return name.casefold().replace("_", "-").replace(" ", "-")


class ConfigError(TcbenchError):
    """Settings that are invalid, by themselves or together."""


class FileFormatError(TcbenchError):
    """A file or folder that does not have the expected layout."""


class MissingFiles(TcbenchError):
    """Weights, prompts or a pipeline that are not on this machine; the message says how to get them.

    Args:
        message: The message.
        download: Whether a download would fix it. Otherwise it is a mistake, such as a wrong path.
    """

    def __init__(self, message: str, *, download: bool = False) -> None:
        super().__init__(message)
        self.download = download


class MismatchError(TcbenchError):
    """Files or records that are not the expected ones, such as weights with another sha256."""

    exit_code = 4


class Problems(TcbenchError):
    """Several errors at once, one per line, so that a user can fix all of them before the next start."""

    def __init__(self, errors: Iterable[TcbenchError]) -> None:
        self.errors = tuple(errors)
        """The single errors."""
        self.exit_code = max((error.exit_code for error in self.errors), default=1)
        super().__init__("\n".join(str(error) for error in self.errors))

    @staticmethod
    def of(errors: Iterable[TcbenchError]) -> TcbenchError:
        """Return the only error, or `Problems` for several; nested ones are flattened.

        Args:
            errors: At least one error.
        """
        flat = [one for error in errors for one in (error.errors if isinstance(error, Problems) else [error])]
        return flat[0] if len(flat) == 1 else Problems(flat)


class ProblemCollector:
    """Runs several checks and raises all their errors together.

    problems = ProblemCollector()
    prompts = problems.run(lambda: find_prompts(name))  # None if it failed
    problems.raise_any()
    """

    def __init__(self) -> None:
        self._errors: list[TcbenchError] = []

    def run(self, check: Callable[[], T]) -> T | None:
        """Return the result of ``check``; on a `TcbenchError` remember it and return None."""
        with self.catch():
            return check()
        return None

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Remember a `TcbenchError` that is raised within the block."""
        try:
            yield
        except TcbenchError as error:
            self._errors.append(error)

    @property
    def errors(self) -> list[TcbenchError]:
        """The errors so far, one for each problem: mistakes come before missing downloads."""
        parts = [error.errors if isinstance(error, Problems) else (error,) for error in self._errors]
        return sorted(chain.from_iterable(parts), key=lambda error: error.download)

    def raise_any(self) -> None:
        """Raise the only error, or `Problems` for several.

        Raises:
            TcbenchError: If a check failed.
        """
        if self._errors:
            raise Problems.of(self.errors)

    @staticmethod
    def before_downloads(find: Callable[[ProblemCollector, bool], T], *, fetch: bool) -> T:
        """Find and check what a command needs; nothing is downloaded before all mistakes are fixed.

        Args:
            find: Runs all checks with the given collector, and downloads what is missing if told to. It is
                called without downloads first, and again if only downloads are missing.
            fetch: Whether downloads are allowed.

        Returns:
            The result of ``find``.

        Raises:
            TcbenchError: If something is invalid or missing: only mistakes if there are any and downloads are
                allowed, otherwise everything.
        """
        problems = ProblemCollector()
        result = find(problems, False)
        if fetch and problems.errors:
            mistakes = [error for error in problems.errors if not error.download]
            if mistakes:
                raise Problems.of(mistakes)
            problems = ProblemCollector()
            result = find(problems, True)
        problems.raise_any()
        return result


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
