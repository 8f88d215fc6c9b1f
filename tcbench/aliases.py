"""Make ``import tcbench.rewards`` another name of the package `rewards`, and so for the other packages.

This module imports `tcbench.launch` only when an alias is imported: otherwise ``python -m tcbench.launch``
would find that module imported already, warn about it, and run it a second time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader  # takes 20 ms to import
else:
    Loader = object

ALIASED = ("rewards", "textcraftor", "benchmarks", "leaderboards")
"""The packages beside `tcbench`."""


class _Aliases:
    """An import finder that makes ``import tcbench.rewards`` another name of the package `rewards`."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        first, _, name = fullname.partition(".")
        if first != __package__ or name.partition(".")[0] not in ALIASED:
            return None
        return ModuleSpec(fullname, _AliasLoader(name))


class _AliasLoader(Loader):
    """Gives the module ``name`` itself, so that it is never loaded a second time under the longer name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        from tcbench.launch import import_package

        import_package(self.name.partition(".")[0])
        module = import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has set that of the alias


# First: the finder of files would load the files of `rewards` again as `tcbench.rewards.base` and so on.
sys.meta_path.insert(0, _Aliases)
