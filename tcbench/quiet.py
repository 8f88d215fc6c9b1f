"""Silence progress bars and log messages of other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Turn off progress bars and messages below errors within the block; the settings are restored after it.

    Callers check what the messages would report, such as missing weights and truncated prompts, themselves.

    Args:
        *libraries: "transformers" or "diffusers".
    """
    loggers = [import_module(f"{library}.utils.logging") for library in libraries]
    settings = [(logger.get_verbosity(), logger.is_progress_bar_enabled()) for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger, (verbosity, bars) in zip(loggers, settings, strict=True):
            logger.set_verbosity(verbosity)
            if bars:
                logger.enable_progress_bar()
