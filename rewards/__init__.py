"""The zoo of reward models: one ``score(images, prompts)`` for all of them.

    import rewards

    reward = rewards.load("world-pick")
    scores = reward.score(images, prompts)
    scores.sum().backward()  # the gradients are in images.grad

Importing the package, and listing what is in it, imports neither torch nor a model library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Both are free of torch. They are imported at once, not on first use, so that `rewards.info` is the function
# and not the module of that name.
from rewards.info import RewardInfo, WeightsFile, WrongRole, check_role
from rewards.registry import info, load, names, register, score
from tcbench.errors import UnknownName

if TYPE_CHECKING:
    from rewards.base import Reward
    from rewards.combine.adapters import ddpo_fn, flow_grpo_fn, pil_fn, tensor_fn

__all__ = [
    "Reward",
    "RewardInfo",
    "UnknownName",
    "WeightsFile",
    "WrongRole",
    "check_role",
    "ddpo_fn",
    "flow_grpo_fn",
    "info",
    "load",
    "names",
    "pil_fn",
    "register",
    "score",
    "tensor_fn",
]

_ON_USE = {
    "Reward": "rewards.base",
    "ddpo_fn": "rewards.combine.adapters",
    "flow_grpo_fn": "rewards.combine.adapters",
    "pil_fn": "rewards.combine.adapters",
    "tensor_fn": "rewards.combine.adapters",
}
"""What imports torch, and where it is."""


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_USE[name]), name)


def __dir__() -> list[str]:
    return __all__
