"""Silence for libraries whose bars and remarks would drown what is said here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Without loading bars and remarks of "transformers" or "diffusers", which then are as they were before.

    What matters of the remarks, such as missing weights and truncated prompts, callers here check themselves.
    """
    loggers = [import_module(f"{library}.utils.logging") for library in libraries]
    before = [(logger.get_verbosity(), logger.is_progress_bar_enabled()) for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger, (verbosity, bars) in zip(loggers, before, strict=True):
            logger.set_verbosity(verbosity)
            if bars:
                logger.enable_progress_bar()
