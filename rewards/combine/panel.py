"""Score the same images with several rewards; common parts of the rewards are loaded and computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rewards.backbones.towers import Towers
from rewards.base import Reward, as_batch
from rewards.info import RewardInfo
from rewards.preprocess import Profile
from rewards.registry import load
from tcbench.errors import TcbenchError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

ScoreByName = Callable[[str, Sequence[str] | None], Tensor]
"""Maps a reward's name and the prompts of B images to scores (B,)."""

LocalWeights = Mapping[str, Mapping[str, str | Path]]
"""Local copies of weights, reward name -> key -> path."""


class Panel(nn.Module):
    """Rewards that score the same images together.

    What the rewards have in common is loaded and computed once:

    - Towers that come from the same files are one module, and an image tower embeds each batch once.
    - Preprocessing is done once for rewards with the same profile and precision.
    - Embeddings of prompts are kept from call to call, up to 4,096 a tower.

    Only whole computations with the same inputs are shared, so scores are those of the rewards loaded one by
    one: to the last bit with ``whole_batches``, and otherwise to about 1e-7.

    Args:
        rewards: Names, or records, of the rewards.
        device: Where scores are computed, such as "cuda".
        dtype: Precision of the models, such as "float32" or "bfloat16".
        weights: Local copies of weights, reward name -> key -> path.
        offload: Keep the rewards on the CPU and move one at a time to the device. Needs less device
            memory and more time.
        whole_batches: Reuse embeddings of prompts only for a batch of the same prompts (see
            `Towers.keep_prompts`).

    Raises:
        ValueError: If no reward is given, or one is given twice.
        UnknownName: If a reward or the precision does not exist.
        MissingFiles: If weights are missing; the message says how to get them.
    """

    def __init__(
        self,
        rewards: Sequence[str | RewardInfo],
        *,
        device: str = "cpu",
        dtype: str = "float32",
        weights: LocalWeights | None = None,
        offload: bool = False,
        whole_batches: bool = False,
    ) -> None:
        super().__init__()
        self.device, self.offload = torch.device(device), offload
        local = weights or {}
        self._rewards: dict[str, Reward] = {}
        with Towers.shared():
            for reward in rewards:
                name = reward if isinstance(reward, str) else reward.name
                if name in self._rewards:
                    raise ValueError(f"the panel has {name} twice; name each reward once")
                self._rewards[name] = load(
                    reward, device="cpu" if offload else device, dtype=dtype, weights=local.get(name)
                )
        if not self._rewards:
            raise ValueError("the panel has no reward; name at least one")
        # Registered by number, because a name may hold a dot ("hpsv2.1"), which modules do not allow.
        self._modules.update({f"reward{i}": reward for i, reward in enumerate(self._rewards.values())})
        for towers in self._towers():
            towers.keep_prompts(whole_batches=whole_batches)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards, in their order."""
        return tuple(self._rewards)

    def __getitem__(self, name: str) -> Reward:
        return self._rewards[name]

    def score(
        self, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Score images with every reward.

        Args:
            images: As for `Reward.score`: a float tensor (B, 3, H, W), RGB in [0, 1], or PIL images.
            prompts: One text per image; may be None if no reward reads prompts.

        Returns:
            Scores (B,), float32, by reward, on the panel's device.

        Raises:
            ValueError: If images or prompts are invalid, or if the panel is offloaded and the images need
                gradients: a reward has left the device before ``backward()`` would need it. Use
                `RewardMix.gradient`, which differentiates in turn.
        """
        if self.offload and torch.is_grad_enabled() and _needs_gradient(images):
            raise ValueError("an offloaded panel has no gradients by backward(); use RewardMix.gradient")
        return {name: scores.to(self.device) for name, scores in self.each(images, prompts)}

    def each(
        self, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield name and scores (B,) of each reward in turn; the arguments are those of `score`.

        An offloaded reward stays on the device until the next one is requested.

        Raises:
            TcbenchError: If a reward fails; the message names it.
        """
        with self.shared_pass(images) as score:
            for name, reward in self._rewards.items():
                with self._on_device(reward):
                    with _naming(name, prompts):
                        scores = score(name, prompts)
                    yield name, scores

    @contextmanager
    def shared_pass(self, images: Tensor | Sequence[Image]) -> Iterator[ScoreByName]:
        """Share the preprocessing and the embeddings of ``images`` between calls for single rewards.

        Unlike `each`, an error of one reward does not end the pass, and rewards may be left out. The rewards
        must be on the device already, so this is for panels that are not offloaded.

        Yields:
            A function of a reward's name and the prompts, which returns scores (B,).

        Raises:
            ValueError: If the images are invalid.
        """
        batch = as_batch(images)
        if isinstance(batch, Tensor):
            batch = batch.to(self.device)
        # Differentiability is part of the key: pixels for a reward without gradient are detached.
        pixels: dict[tuple[Profile, torch.dtype, bool], tuple[Tensor, ...]] = {}

        def score(name: str, prompts: Sequence[str] | None) -> Tensor:
            reward = self._rewards[name]
            texts = reward.check_prompts(prompts, len(batch))
            key = (reward.profile, reward.dtype, reward.info.differentiable)
            # An offloaded panel preprocesses for each reward: `RewardMix.gradient` frees the graph of a turn,
            # and with it that of shared pixels.
            if key not in pixels or self.offload:
                pixels[key] = reward.pixels(batch)
            return reward.score_pixels(pixels[key], texts)

        with ExitStack() as stack:
            if not self.offload:
                for towers in self._shared():
                    stack.enter_context(towers.one_pass())
            yield score

    @contextmanager
    def _on_device(self, reward: Reward) -> Iterator[None]:
        if self.offload:
            reward.to(self.device)
        try:
            yield
        finally:
            if self.offload:
                reward.to("cpu")

    def _shared(self) -> list[Towers]:
        """Return towers of several rewards. Keeping the embeddings of the others would cost memory only."""
        users = Counter(
            module
            for reward in self._rewards.values()
            for module in reward.modules()
            if isinstance(module, Towers)
        )
        return [towers for towers, count in users.items() if count > 1]

    def _towers(self) -> list[Towers]:
        return [module for module in self.modules() if isinstance(module, Towers)]


@contextmanager
def _naming(name: str, prompts: Sequence[str] | None) -> Iterator[None]:
    """Name the reward and the first prompt in an error, which any code of a user may raise."""
    try:
        yield
    except (TcbenchError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and name in str(error):
            raise
        batch = f" on a batch that begins with the prompt {prompts[0]!r}" if prompts else ""
        raise TcbenchError(f"{name} failed{batch}: {type(error).__name__}: {first_line(error)}") from error


def _needs_gradient(images: Tensor | Sequence[Image]) -> bool:
    return isinstance(images, Tensor) and images.requires_grad
