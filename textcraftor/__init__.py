"""TextCraftor: train the text encoders of diffusion pipelines with differentiable rewards (Li et al. 2024).

    import textcraftor

    config = textcraftor.make_config("micro", profile="quick")
    run = textcraftor.train(config, "out")
    print(run.path, run.updates, run.best)

The folder is a model for `tcbench run --model out`. Importing the package imports neither torch nor a model
library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textcraftor.config import PROFILES, TrainConfig, make_config
    from textcraftor.training import TrainedRun, train

__all__ = ["PROFILES", "TrainConfig", "TrainedRun", "make_config", "train"]

_MODULES = {
    "PROFILES": "textcraftor.config",
    "TrainConfig": "textcraftor.config",
    "make_config": "textcraftor.config",
    "TrainedRun": "textcraftor.training",
    "train": "textcraftor.training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
