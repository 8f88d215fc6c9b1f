"""TextCraftor: train the text encoders of diffusion pipelines with differentiable rewards (Li et al. 2024).

    import textcraftor

    config = textcraftor.make_config("micro", profile="quick")
    run = textcraftor.train(config, "out")
    print(run.path, run.updates, run.best)

The folder is a model for `tcbench run --model out`. Importing the package imports neither torch nor a model
library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcbench.lazy import lazy_attributes

if TYPE_CHECKING:
    from textcraftor.config import TrainConfig, make_config
    from textcraftor.profiles import PROFILES
    from textcraftor.training import TrainedRun, train

__all__ = ["PROFILES", "TrainConfig", "TrainedRun", "make_config", "train"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "PROFILES": "textcraftor.profiles",
        "TrainConfig": "textcraftor.config",
        "make_config": "textcraftor.config",
        "TrainedRun": "textcraftor.training",
        "train": "textcraftor.training",
    },
)


def __dir__() -> list[str]:
    return __all__
