"""Rewards as the functions that other training loops call. B images, H height, W width.

`tensor_fn` and `pil_fn` return plain functions of images and prompts. `ddpo_fn` and `flow_grpo_fn` return
functions with the signatures of two families of reinforcement learning loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rewards.info import RewardInfo, Use

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from rewards.base import Reward
    from rewards.combine.mix import RewardMix

_ONE_AT_A_TIME = Lock()
"""Those loops score in threads, and neither tokenizers nor a panel's shared towers are thread-safe."""


def tensor_fn(
    reward: Reward, *, vae_range: bool = False, use: Use | None = "training"
) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """Make a differentiable function for loops such as DRaFT, AlignProp and ReFL.

    Args:
        reward: The reward to maximise.
        vae_range: Images are the output of a diffusers VAE, about [-1, 1]. They are mapped to [0, 1] and
            clipped, as diffusers' VaeImageProcessor does; a clipped pixel has no gradient.
        use: What the function is for, checked against the reward's role; None checks nothing.

    Returns:
        A function of images (B, 3, H, W) in [0, 1] and B prompts that returns rewards (B,) with gradients
        to the images; negated scores if lower scores are better.

    Raises:
        ValueError: If the reward has no gradient.
        WrongRole: If the reward's role forbids ``use``.
    """
    _check_use(reward.info, use)
    sign = 1 if reward.info.higher_is_better else -1
    if not reward.info.differentiable:
        raise ValueError(
            f"{reward.info.name} has no gradient; use it in reinforcement learning (ddpo_fn, flow_grpo_fn)"
        )

    def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
        if vae_range and images.is_floating_point():  # score() refuses other dtypes with a clear error
            images = (images / 2 + 0.5).clamp(0, 1)
        return sign * reward.score(images, prompts)

    return score


def pil_fn(reward: Reward) -> Callable[[Sequence[Image], Sequence[str]], list[float]]:
    """Make a function of B PIL images and B prompts that returns B scores, NaN where it cannot judge."""

    def score(images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        with _ONE_AT_A_TIME, torch.no_grad():
            scores: list[float] = reward.score(images, prompts).tolist()
        return scores

    return score


def ddpo_fn(
    reward: Reward, *, use: Use | None = "training"
) -> Callable[..., tuple[NDArray[np.float32], dict[str, Any]]]:
    """Make a ``reward_fn(images, prompts, metadata) -> (rewards, {})`` for DDPO loops.

    These are kvablack/ddpo-pytorch (ddpo_pytorch/rewards.py, scripts/train.py) and TRL's DDPOTrainer
    (huggingface/trl, trl/trainer/ddpo_trainer.py, removed from recent versions).

    The function takes images as a tensor (B, 3, H, W), floats in [0, 1] or uint8, or as an array
    (B, H, W, 3) of either, B prompts, and metadata, which it ignores. It returns rewards (B,), float32, on
    the CPU; negated scores if lower scores are better, because the loop maximises. It raises ValueError for
    invalid images or prompts, and for a prompt that the reward cannot judge.

    Args:
        reward: The reward to maximise.
        use: What the function is for, checked against the reward's role; None (reports, ablations)
            checks nothing.

    Raises:
        WrongRole: If the reward's role forbids ``use``.
    """
    _check_use(reward.info, use)
    sign = 1 if reward.info.higher_is_better else -1

    def score(
        images: Any, prompts: Sequence[str], metadata: object = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        with _ONE_AT_A_TIME, torch.no_grad():
            scores = reward.score(_reward_input(images), prompts)
        return sign * _without_nan(reward.info.name, scores, prompts), {}

    return score


def flow_grpo_fn(
    mix: RewardMix, *, use: Use | None = "training"
) -> Callable[..., tuple[Mapping[str, NDArray[np.float32]], dict[str, Any]]]:
    """Make a ``reward_fn(images, prompts, metadata, only_strict=...) -> (scores, {})`` for Flow-GRPO.

    It replaces ``multi_score(device, score_dict)`` (yifan123/flow_grpo, flow_grpo/rewards.py,
    scripts/train_sd3.py). The loop maximises the entry "avg" of the scores, the weighted sum: here the mix's
    total, which is the same sum for a mix with weights alone. Each reward's scores (B,) are beside it by
    name, float32 on the CPU. Images and prompts are those of `ddpo_fn`; ``metadata``, ``ref_images`` and
    ``only_strict`` are ignored.

    Args:
        mix: The reward mix to maximise.
        use: What the function is for, checked against the rewards' roles; None checks nothing.

    Raises:
        WrongRole: If a reward's role forbids ``use``.
        ValueError: If a reward whose lower scores are better has a positive weight.
    """
    for name, term in mix.terms.items():
        record = mix.panel[name].info
        _check_use(record, use)
        if not record.higher_is_better and term.weight > 0:
            raise ValueError(
                f"{name} has the weight {term.weight:g}, but lower scores are better; use {-term.weight:g}"
            )

    def score(
        images: Any,
        prompts: Sequence[str],
        metadata: object = None,
        ref_images: object = None,
        only_strict: bool = True,
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        with _ONE_AT_A_TIME, torch.no_grad():
            mixed = mix.score(_reward_input(images), prompts)
        named = {name: _without_nan(name, scores, prompts) for name, scores in mixed.scores.items()}
        return {**named, "avg": mixed.total.cpu().numpy()}, {}

    return score


def _reward_input(images: Any) -> Any:
    """Convert a uint8 tensor (B, 3, H, W) or an array (B, H, W, 3) to what `Reward.score` takes.

    Everything else is passed on: `Reward.score` raises the error for it.
    """
    if isinstance(images, np.ndarray):
        images = torch.tensor(images)
        images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        return images.float() / 255
    return images


def _check_use(record: RewardInfo, use: Use | None) -> None:
    if use is not None:
        record.check_role(use)


def _without_nan(name: str, scores: Tensor, prompts: Sequence[str]) -> NDArray[np.float32]:
    """Return scores (B,) on the CPU. Raises ValueError for a NaN, which would spread to the whole batch."""
    values: NDArray[np.float32] = scores.cpu().numpy()
    for prompt, value in zip(prompts, values, strict=True):
        if np.isnan(value):
            raise ValueError(
                f"{name} cannot judge the prompt {prompt[:60]!r}; remove the prompt or use another reward"
            )
    return values
