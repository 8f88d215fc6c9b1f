"""The console script's first step: make sure that `tcbench` runs its own packages.

`benchmarks` and `rewards` are names that a user's own folders bear too. Where such a folder comes first on
the import path (PYTHONPATH=. is enough), the command would die before it could say so; hence this launcher
lives in the package with the rarest name, knows nothing of the others but that they lie beside it, and puts
them first. `tcbench doctor` then reports the collision.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("tcbench", "rewards", "textcraftor", "benchmarks", "leaderboards")
SHADOWED: dict[str, Path | None] = {}
"""Packages that another folder hid when the command started; `tcbench doctor` reports them."""

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the four packages of this installation."""


def imported_from(name: str) -> Path | None:
    """The folder that `import name` takes its package from; None if there is none."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def shadowed() -> dict[str, Path | None]:
    """Those of the four packages that would be imported from elsewhere, and from where."""
    found = {name: imported_from(name) for name in PACKAGES}
    return {name: place for name, place in found.items() if place != ROOT / name}


def main() -> None:
    """Run the command line with this installation's packages, whatever else bears their names."""
    hidden = shadowed()
    if hidden:
        sys.path.insert(0, str(ROOT))
        SHADOWED.update(hidden)
    import_module("benchmarks.cli").main()


if __name__ == "__main__":  # accelerate launch --module tcbench.launch train ...
    main()
