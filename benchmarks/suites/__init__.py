"""Prompt suites by name. The module of a suite is imported when the suite is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tcbench.errors import UnknownName

if TYPE_CHECKING:
    from benchmarks.suites.base import PromptSet, Suite

CUSTOM = "custom"
"""Suite name for a user's own prompt file."""

SUITES: Mapping[str, str] = MappingProxyType(
    {
        "world": "benchmarks.suites.world:SUITE",
        "world-sealed": "benchmarks.suites.world:SEALED",
        "world-third": "benchmarks.suites.world:THIRD",
        "world-validation": "benchmarks.suites.world:VALIDATION",
        "world-train": "benchmarks.suites.world:TRAIN",
        "parti": "benchmarks.suites.parti:SUITE",
        "hpsv2": "benchmarks.suites.hpsv2:SUITE",
        "drawbench": "benchmarks.suites.drawbench:SUITE",
        "geneval": "benchmarks.suites.geneval:SUITE",
    }
)


def find_suite(name: str) -> Suite:
    """Return the record of a suite.

    Raises:
        UnknownName: If there is no such suite; with close matches.
    """
    if name not in SUITES:
        raise UnknownName("suite", name, [*SUITES, CUSTOM])
    module, _, attribute = SUITES[name].partition(":")
    suite: Suite = getattr(import_module(module), attribute)
    return suite


def prompt_set(name: str, prompts: Path | None = None, *, fetch: bool = True) -> PromptSet:
    """Return the prompts of a suite, checked against its hash.

    Args:
        name: Name of a suite, or "custom" for the user's file ``prompts``.
        prompts: A prompt file, or a folder with the suite's files.
        fetch: Download files that are not on this machine, if the hub has them.

    Raises:
        UnknownName: If there is no such suite.
        MissingFiles: If its files are neither on this machine nor downloadable.
        MismatchError: If a file holds other prompts.
    """
    from benchmarks.suites.base import PromptSet

    return PromptSet.from_file(prompts) if name == CUSTOM else find_suite(name).load(prompts, fetch=fetch)
