"""The zoo of reward models: one ``score(images, prompts)`` for all of them.

    import rewards

    reward = rewards.load("world-pick")
    scores = reward.score(images, prompts)
    scores.sum().backward()  # the gradients are in images.grad

Importing the package, and listing what is in it, imports neither torch nor a model library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Both are free of torch. They are imported at once, not on first use, so that `rewards.info` is the function
# and not the module of that name.
from rewards.info import RewardInfo, WeightsFile, WrongRole, check_role
from rewards.registry import UnknownName, info, load, names, register, score

if TYPE_CHECKING:
    from rewards.base import Reward

__all__ = [
    "Reward",
    "RewardInfo",
    "UnknownName",
    "WeightsFile",
    "WrongRole",
    "check_role",
    "info",
    "load",
    "names",
    "register",
    "score",
]


def __getattr__(name: str) -> Any:
    if name != "Reward":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rewards.base import Reward

    return Reward


def __dir__() -> list[str]:
    return __all__
