"""The prompt sets that runs are made on, by name. A suite's module is imported when the suite is used."""

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

SUITES: Mapping[str, str] = MappingProxyType(
    {
        "world": "benchmarks.suites.world:SUITE",
        "world-validation": "benchmarks.suites.world:VALIDATION",
        "world-train": "benchmarks.suites.world:TRAIN",
        "parti": "benchmarks.suites.parti:SUITE",
        "hpsv2": "benchmarks.suites.hpsv2:SUITE",
        "drawbench": "benchmarks.suites.drawbench:SUITE",
        "geneval": "benchmarks.suites.geneval:SUITE",
    }
)


def suite(name: str) -> Suite:
    """The named suite's record. Raises UnknownName with close matches."""
    if name not in SUITES:
        raise UnknownName("suite", name, [*SUITES, CUSTOM])
    module, _, attribute = SUITES[name].partition(":")
    found: Suite = getattr(import_module(module), attribute)
    return found


def prompt_set(name: str, prompts: Path | None = None, *, fetch: bool = True) -> PromptSet:
    """The named suite's prompts, checked against its pin; `custom` reads the user's own file at `prompts`.

    What is missing is downloaded if `fetch` and the hub has it.
    """
    from benchmarks.suites.base import read_custom, read_suite

    return read_custom(prompts) if name == CUSTOM else read_suite(suite(name), prompts, fetch=fetch)
