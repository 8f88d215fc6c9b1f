"""The benchmark runner: prompt suites, systems under test, and runs that generate and score images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcbench.lazy import lazy_attributes

if TYPE_CHECKING:
    from benchmarks.execution import run as run

__all__ = ["run"]


# importing a module of this package, such as the command line, must not import torch
__getattr__ = lazy_attributes(__name__, {"run": "benchmarks.execution"})


def __dir__() -> list[str]:
    return __all__
