"""Many rewards over the same images in one pass: what they share is loaded once and computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rewards.backbones.towers import Towers, shared_towers
from rewards.base import Reward, as_batch
from rewards.info import RewardInfo
from rewards.preprocess import Profile
from rewards.registry import load

if TYPE_CHECKING:
    from PIL.Image import Image

Files = Mapping[str, Mapping[str, str | Path]]
"""Local copies of weights, reward -> key -> path."""


class Panel(nn.Module):
    """Rewards by name, scored together.

    Towers that are the same files are one module, an image tower sees each picture once, preprocessing that
    is equal is done once, and embeddings of prompts are kept from call to call. With ``offload`` the rewards
    wait on the CPU and take turns on ``device``.
    """

    def __init__(
        self,
        rewards: Sequence[str | RewardInfo],
        *,
        device: str = "cpu",
        dtype: str = "float32",
        weights: Files | None = None,
        offload: bool = False,
    ) -> None:
        super().__init__()
        self.device, self.offload = torch.device(device), offload
        given = weights or {}
        self._rewards: dict[str, Reward] = {}
        with shared_towers():
            for reward in rewards:
                name = reward if isinstance(reward, str) else reward.name
                if name in self._rewards:
                    raise ValueError(f"the panel has {name} twice; name each reward once")
                self._rewards[name] = load(
                    reward, device="cpu" if offload else device, dtype=dtype, weights=given.get(name)
                )
        if not self._rewards:
            raise ValueError("a panel needs at least one reward")
        self._modules.update({f"reward{i}": reward for i, reward in enumerate(self._rewards.values())})
        for towers in self._towers():
            towers.remember()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its rewards, in their order."""
        return tuple(self._rewards)

    def __getitem__(self, name: str) -> Reward:
        return self._rewards[name]

    def score(
        self, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Scores (B,) by reward, as `rewards.base.Reward.score` gives them.

        Raises ValueError as it does, and for images that need gradients when rewards take turns: those are
        gone from the device before the gradients are computed (`Mix.gradient` does it in turn).
        """
        if self.offload and torch.is_grad_enabled() and _needs_gradient(images):
            raise ValueError("an offloaded panel gives no gradients by backward(); use Mix.gradient")
        return {name: scores.to(self.device) for name, scores in self.each(images, prompts)}

    def each(
        self, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """The same, a reward at a time: name and scores (B,). An offloaded one stays until the next comes."""
        batch = as_batch(images)
        count = sum(len(part) for part in batch)
        made: dict[tuple[Profile, torch.dtype, bool], tuple[Tensor, ...]] = {}
        with ExitStack() as stack:
            if not self.offload:
                for towers in self._shared():
                    stack.enter_context(towers.one_pass())
            for name, reward in self._rewards.items():
                texts = reward.check_prompts(prompts, count)
                key = (reward.profile, reward.dtype, reward.info.differentiable)
                with self._present(reward):
                    if key not in made or self.offload:  # whoever takes turns frees its graph in between
                        made[key] = reward.pixels([part.to(self.device) for part in batch])
                    yield name, reward.score_pixels(made[key], texts)

    @contextmanager
    def _present(self, reward: Reward) -> Iterator[None]:
        if self.offload:
            reward.to(self.device)
        try:
            yield
        finally:
            if self.offload:
                reward.to("cpu")

    def _shared(self) -> list[Towers]:
        """Towers that several rewards look with; what others see need not be kept."""
        users = Counter(
            module
            for reward in self._rewards.values()
            for module in reward.modules()
            if isinstance(module, Towers)
        )
        return [towers for towers, count in users.items() if count > 1]

    def _towers(self) -> list[Towers]:
        return [module for module in self.modules() if isinstance(module, Towers)]


def _needs_gradient(images: Tensor | Sequence[Image]) -> bool:
    return isinstance(images, Tensor) and images.requires_grad
