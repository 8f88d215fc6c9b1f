"""Start the command line and import the packages of this installation, even if other code uses their names.

`benchmarks` and `rewards` are common names. A folder or module of the same name that comes first on the
import path (with PYTHONPATH=. any in the working directory) would be imported instead of ours. This module is
in the package with the least common name. It knows only that the other packages are beside it, and puts them
first. `tcbench doctor` reports the name clash.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

PACKAGES = ("tcbench", "rewards", "textcraftor", "benchmarks", "leaderboards")
"""All packages of this installation."""

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds them."""

SHADOWED: dict[str, Path | None] = {}
"""Packages that other code hid when they were needed, and the path of that code; for `tcbench doctor`."""


def imported_from(name: str) -> Path | None:
    """Return the package folder or module file that ``import name`` would use; None if not found."""
    spec = find_spec(name)
    return _path(spec) if spec else None


def import_package(name: str) -> ModuleType:
    """Import one of `PACKAGES` from this installation.

    Raises:
        ImportError: If another module was already imported under one of the names. The packages import each
            other by name, so they cannot work beside it.
    """
    _prefer_own_packages()
    for package in PACKAGES:
        module = sys.modules.get(package)
        if module is not None and _path(module.__spec__) != ROOT / package:
            raise ImportError(
                f"module {package!r} was imported from {module.__file__}, not from tcbench; rename it, or "
                f"use tcbench.{name} before importing it"
            )
    return import_module(name)


def main() -> None:
    """Run the command line with the packages of this installation."""
    import_package("benchmarks")
    import_module("benchmarks.cli").main()


class _OwnPackages:
    """An import finder for the packages of this installation and for nothing else.

    Putting `ROOT` first on the import path would do too, but it may be site-packages, and would then hide
    every module of the user that has the name of any installed package.
    """

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [str(ROOT)]) if fullname in PACKAGES else None


def _prefer_own_packages() -> None:
    shadowed = {
        name: path
        for name in PACKAGES
        if name not in sys.modules and (path := imported_from(name)) != ROOT / name
    }
    if shadowed:
        SHADOWED.update(shadowed)
        sys.meta_path.insert(0, _OwnPackages)


def _path(spec: ModuleSpec | None) -> Path | None:
    """Return the folder of a package, or the file of a module."""
    if spec is None:
        return None
    location = next(iter(spec.submodule_search_locations or ()), spec.origin)
    return Path(location).resolve() if location else None


if __name__ == "__main__":  # accelerate launch --module tcbench.launch train ...
    main()
