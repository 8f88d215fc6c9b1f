"""Rewards as the functions that other people's training loops call. B images, H height, W width.

`tensor_fn` and `pil_fn` are plain functions of images and prompts. `ddpo_fn` and `flow_grpo_fn` have the
signature that two families of reinforcement learning expect; those loops call from threads of their own, so
here one call is scored at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rewards.info import RewardInfo, Use, check_role

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from rewards.base import Reward
    from rewards.combine.mix import Mix

_TURN = Lock()
"""Tokenizers, and the towers that a panel shares, are not to be used by two threads at once."""


class DdpoFn(Protocol):
    """See `ddpo_fn`."""

    def __call__(
        self, images: Any, prompts: Sequence[str], metadata: object = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Rewards (B,), and nothing more to say of them."""
        ...


class FlowGrpoFn(Protocol):
    """See `flow_grpo_fn`."""

    def __call__(
        self,
        images: Any,
        prompts: Sequence[str],
        metadata: object = None,
        ref_images: object = None,
        only_strict: bool = True,
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Scores (B,) by name, the weighted sum as "avg", and nothing more to say of them."""
        ...


def tensor_fn(
    reward: Reward, *, vae_range: bool = False, use: Use | None = "training"
) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """Images (B, 3, H, W) in [0, 1] and B prompts to rewards (B,), with gradients to the images.

    For loops that maximise a reward by its gradient, such as DRaFT's, AlignProp's and ReFL's. With
    ``vae_range`` images are what a diffusers VAE decodes, about [-1, 1]; they are cut to it, as diffusers'
    own VaeImageProcessor does, and where that cuts a pixel it has no gradient. The rewards of one whose lower
    scores are better come negated. Raises ValueError for a reward that has no gradient, and `WrongRole` as
    `ddpo_fn` does.
    """
    _allow(reward.info, use)
    sign = 1 if reward.info.higher_is_better else -1
    if not reward.info.differentiable:
        raise ValueError(
            f"{reward.info.name} has no gradient; use it in reinforcement learning (ddpo_fn, flow_grpo_fn)"
        )

    def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
        if vae_range and images.is_floating_point():  # other images are refused below
            images = (images / 2 + 0.5).clamp(0, 1)
        return sign * reward.score(images, prompts)

    return score


def pil_fn(reward: Reward) -> Callable[[Sequence[Image], Sequence[str]], list[float]]:
    """B PIL images and B prompts to B scores, NaN where the reward cannot judge."""

    def score(images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        with _TURN, torch.no_grad():
            scores: list[float] = reward.score(images, prompts).tolist()
        return scores

    return score


def ddpo_fn(reward: Reward, *, use: Use | None = "training") -> DdpoFn:
    """A ``reward_fn(images, prompts, metadata) -> (rewards (B,), {})`` as DDPO's loops call it.

    Those are kvablack/ddpo-pytorch (ddpo_pytorch/rewards.py, scripts/train.py) and TRL's DDPOTrainer
    (huggingface/trl, trl/trainer/ddpo_trainer.py, until TRL dropped it). Images are a tensor (B, 3, H, W),
    floats in [0, 1] or uint8, or an array (B, H, W, 3) of either; prompts and metadata are tuples of B, of
    which metadata is not read. Rewards are float32 on the CPU. The loop maximises them, so those of a
    reward whose lower scores are better come negated.

    Raises ValueError when it is called for images or prompts as `Reward.score` does, and for a prompt that
    the reward cannot judge; `WrongRole` at once for a reward that must not be trained on, unless ``use`` is
    None: then it only reports, or this is an ablation.
    """
    _allow(reward.info, use)
    sign = 1 if reward.info.higher_is_better else -1

    def score(
        images: Any, prompts: Sequence[str], metadata: object = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        with _TURN, torch.no_grad():
            scores = reward.score(as_images(images), prompts)
        return sign * _judged(reward.info.name, scores, prompts), {}

    return score


def flow_grpo_fn(mix: Mix, *, use: Use | None = "training") -> FlowGrpoFn:
    """A ``reward_fn(images, prompts, metadata, only_strict=...) -> (scores by name, {})`` for Flow-GRPO.

    It takes the place of ``multi_score(device, score_dict)`` (yifan123/flow_grpo, flow_grpo/rewards.py,
    scripts/train_sd3.py), whose loop maximises the entry "avg", the weighted sum. Here that is the mix's
    total, so a mix of `rewards.combine.mix.Part` with weights alone is the same sum. Each reward's own
    scores (B,) are beside it under its name, float32 on the CPU. Images and prompts are as `ddpo_fn` takes
    them; ``metadata``, ``ref_images`` and ``only_strict`` are of other rewards, and are not read.

    Raises as `ddpo_fn` does, and at once ValueError for a positive weight of a reward whose lower scores are
    better: the loop would make them worse.
    """
    for name, part in mix.parts.items():
        record = mix.panel[name].info
        _allow(record, use)
        if not record.higher_is_better and part.weight > 0:
            raise ValueError(
                f"{name} has the weight {part.weight:g}, but lower is better; give it {-part.weight:g}"
            )

    def score(
        images: Any,
        prompts: Sequence[str],
        metadata: object = None,
        ref_images: object = None,
        only_strict: bool = True,
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        with _TURN, torch.no_grad():
            mixed = mix.score(as_images(images), prompts)
        named = {name: _judged(name, scores, prompts) for name, scores in mixed.scores.items()}
        return {**named, "avg": mixed.total.cpu().numpy()}, {}

    return score


def as_images(images: Any) -> Any:
    """What `Reward.score` takes, of what a loop has: a uint8 tensor (B, 3, H, W), or an array (B, H, W, 3).

    All else is left to `Reward.score`, which says what is wrong with it.
    """
    if isinstance(images, np.ndarray):
        images = torch.tensor(images)
        images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        return images.float() / 255
    return images


def _allow(record: RewardInfo, use: Use | None) -> None:
    if use is not None:
        check_role(record, use)


def _judged(name: str, scores: Tensor, prompts: Sequence[str]) -> NDArray[np.float32]:
    """The scores (B,) on the CPU. Raises ValueError if one is NaN: an average over it would be NaN too."""
    found: NDArray[np.float32] = scores.cpu().numpy()
    for prompt, score in zip(prompts, found, strict=True):
        if np.isnan(score):
            raise ValueError(
                f"{name} cannot judge the prompt {prompt[:60]!r}; leave it out or take another reward"
            )
    return found
