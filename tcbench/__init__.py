"""Score, fine-tune and compare text-to-image models with differentiable rewards.

The parts are packages of their own, offered here under one name and imported on first use:

    import tcbench

    reward = tcbench.rewards.load("world-pick")
    tcbench.textcraftor.train(...)
    tcbench.benchmarks.run("micro", limit=8)
    tcbench.leaderboards.build("runs", baseline="micro")

``from tcbench.rewards import load`` works too. They are resolved by name at run time
(`tcbench.launch.import_package`), because this package is below the others and imports none of them. They
come from this installation, also where your working directory has a ``rewards.py`` or a folder
``benchmarks``.
"""

from __future__ import annotations

from typing import Any

import tcbench.aliases  # noqa: F401 - makes tcbench.rewards and the others importable

__all__ = ["__version__", "benchmarks", "leaderboards", "rewards", "textcraftor"]  # in __getattr__


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from tcbench.environment import installed_version

        return installed_version("tcbench") or "unknown"
    if name in __all__:
        from tcbench.launch import import_package

        return import_package(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
