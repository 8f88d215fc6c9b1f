"""A zoo of reward models for text-to-image: one ``score(images, prompts)`` for all of them.

Score images with one reward, and differentiate the score:

    >>> import torch, rewards
    >>> images = torch.rand(2, 3, 64, 64, requires_grad=True)
    >>> prompts = ["a large red circle", "a small blue star"]
    >>> reward = rewards.load("world-pick")
    >>> scores = reward.score(images, prompts)
    >>> scores.shape
    torch.Size([2])
    >>> scores.sum().backward()
    >>> images.grad.shape
    torch.Size([2, 3, 64, 64])

List the rewards, and read the record of one; neither imports torch or a model library:

    >>> "pickscore" in rewards.list()
    True
    >>> rewards.info("pickscore").scale
    'cosine x logit scale; a difference of 1 is picked 73 % of the time'

Score the same images with several rewards, which share what they can:

    >>> panel = rewards.Panel(["world-clip", "world-aesthetic"])
    >>> sorted(panel.score(images.detach(), prompts))
    ['world-aesthetic', 'world-clip']

Maximise a weighted sum of rewards:

    >>> mix = rewards.load_mix("world-clip=1,world-aesthetic=2", calibration="world")
    >>> mix.gradient(images, prompts).gradient.shape
    torch.Size([2, 3, 64, 64])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

# Both are free of torch. They are imported at once, not on first use, so that `rewards.info` is the function
# and not the module of that name.
from rewards.info import RewardInfo, WeightsFile, WrongRole
from rewards.registry import info, load, register, score
from rewards.registry import list_rewards as list
from tcbench.errors import UnknownName
from tcbench.lazy import lazy_attributes

if TYPE_CHECKING:
    from rewards.base import Reward
    from rewards.combine.adapters import ddpo_fn, flow_grpo_fn, pil_fn, tensor_fn
    from rewards.combine.mix import RewardMix, load_mix
    from rewards.combine.panel import Panel

__all__ = [
    "Panel",
    "Reward",
    "RewardInfo",
    "RewardMix",
    "UnknownName",
    "WeightsFile",
    "WrongRole",
    "ddpo_fn",
    "flow_grpo_fn",
    "info",
    "list",
    "load",
    "load_mix",
    "pil_fn",
    "register",
    "score",
    "tensor_fn",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Panel": "rewards.combine.panel",
        "Reward": "rewards.base",
        "RewardMix": "rewards.combine.mix",
        "ddpo_fn": "rewards.combine.adapters",
        "flow_grpo_fn": "rewards.combine.adapters",
        "load_mix": "rewards.combine.mix",
        "pil_fn": "rewards.combine.adapters",
        "tensor_fn": "rewards.combine.adapters",
    },
)


def __dir__() -> Sequence[str]:
    return __all__
