"""The prompt sets that runs are made on, by name. A suite's module is imported when the suite is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rewards.registry import UnknownName

if TYPE_CHECKING:
    from benchmarks.suites.base import PromptSet, Suite

CUSTOM = "custom"

SUITES: Mapping[str, str] = MappingProxyType(
    {
        "world": "benchmarks.suites.world",
        "parti": "benchmarks.suites.parti",
        "hpsv2": "benchmarks.suites.hpsv2",
        "drawbench": "benchmarks.suites.drawbench",
        "geneval": "benchmarks.suites.geneval",
    }
)


def suite(name: str) -> Suite:
    """The named suite's record. Raises UnknownName with close matches."""
    if name not in SUITES:
        raise UnknownName("suite", name, [*SUITES, CUSTOM])
    found: Suite = import_module(SUITES[name]).SUITE
    return found


def prompt_set(name: str, prompts: Path | None = None) -> PromptSet:
    """The named suite's prompts, checked against its pin; `custom` reads the user's own file at `prompts`."""
    from benchmarks.suites.base import read_custom, read_suite

    return read_custom(prompts) if name == CUSTOM else read_suite(suite(name), prompts)
