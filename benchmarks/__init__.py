"""The benchmark runner: prompt suites, systems under test, and runs that generate and score images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.execution import run as run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    # lazy: importing a module of this package, such as the command line, must not import torch
    if name == "run":
        from benchmarks.execution import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
