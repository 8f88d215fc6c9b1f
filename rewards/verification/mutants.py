"""A reward broken on purpose in one of the usual ways: a comparison that does not notice proves nothing.

Each mutant breaks a loaded reward for good and says whether there was anything to break.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.backbones.tokens import Tokenizer, Tokens
from rewards.base import Reward
from rewards.preprocess import CLIP_MEAN, CLIP_STD, HALF

OTHER_FIT = {
    "shortest": "squash",
    "longest": "shortest",
    "squash": "shortest",
    "pad": "squash",
    "area": "squash",
}


class Broken:
    """Whether a mutant's fault was met while the reward scored."""

    met = False


Mutant = Callable[[Reward, Broken], Any]
"""A context in which the reward is broken; it sets ``met`` where the fault can show."""


@contextmanager
def wrong_statistics(reward: Reward, broken: Broken) -> Iterator[None]:
    """Normalised with the mean and deviation of another family of models."""
    if reward.profile.mean is not None:
        mean, std = (CLIP_MEAN, CLIP_STD) if reward.profile.mean == HALF else (HALF, HALF)
        reward.profile, broken.met = replace(reward.profile, mean=mean, std=std), True
    yield


@contextmanager
def antialias_flipped(reward: Reward, broken: Broken) -> Iterator[None]:
    """Resized as a float tensor with the other antialiasing than was published."""
    profile = reward.profile
    if profile.resize != "none":
        antialias = False if profile.emulate_pil else not profile.antialias
        reward.profile = replace(profile, emulate_pil=False, antialias=antialias)
        broken.met = True
    yield


@contextmanager
def other_fit(reward: Reward, broken: Broken) -> Iterator[None]:
    """Cropped where it was padded, squashed where it was cropped."""
    if reward.profile.resize in OTHER_FIT:
        resize: Any = OTHER_FIT[reward.profile.resize]
        reward.profile, broken.met = replace(reward.profile, resize=resize), True
    yield


@contextmanager
def other_activation(reward: Reward, broken: Broken) -> Iterator[None]:
    """GELU for CLIP's quick GELU, and quick GELU for GELU."""

    def quick(x: Tensor, *_: Any, **__: Any) -> Tensor:
        broken.met = True
        return x * torch.sigmoid(1.702 * x)

    gelu = F.gelu

    def exact(x: Tensor) -> Tensor:
        broken.met = True
        return gelu(x)

    for module in reward.modules():
        if type(module).__name__ in ("QuickGELU", "QuickGELUActivation"):
            module.forward = exact
        elif type(module).__name__ in ("GELUActivation", "GELUTanh", "NewGELUActivation"):
            module.forward = quick
    with patch.object(F, "gelu", quick):
        yield


@contextmanager
def not_normalised(reward: Reward, broken: Broken) -> Iterator[None]:
    """Embeddings left at the length they have."""

    def as_it_is(x: Tensor, *_: Any, **__: Any) -> Tensor:
        broken.met = True
        return x

    with patch.object(F, "normalize", as_it_is):
        yield


@contextmanager
def other_limit(reward: Reward, broken: Broken) -> Iterator[None]:
    """Prompts cut to half of the tokens that the model was trained to read."""
    with _tokens(reward, broken, _cut) as _:
        yield


@contextmanager
def padding_attended(reward: Reward, broken: Broken) -> Iterator[None]:
    """The mask that hides the padding is dropped, for a model that needs it."""
    if "blip" in reward.info.family:
        with _tokens(reward, broken, lambda tokens, _: Tokens(tokens.ids, torch.ones_like(tokens.mask))):
            yield
    else:
        yield


@contextmanager
def unpadded(reward: Reward, broken: Broken) -> Iterator[None]:
    """Prompts are not padded, for a model that was trained to read the padding."""
    if "siglip" in reward.info.family:
        with _tokens(reward, broken, _trim):
            yield
    else:
        yield


MUTANTS: Mapping[str, Mutant] = {
    "mean and deviation": wrong_statistics,
    "antialias": antialias_flipped,
    "crop or pad": other_fit,
    "activation": other_activation,
    "no L2 norm": not_normalised,
    "token limit": other_limit,
    "padding attended": padding_attended,
    "tokens unpadded": unpadded,
}


class _Changed:
    """A tokenizer whose tokens are changed afterwards."""

    def __init__(self, tokenizer: Tokenizer, broken: Broken, change: Callable[[Tokens, int], Tokens]) -> None:
        self._tokenizer, self._broken, self._change = tokenizer, broken, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)  # what one kind of tokenizer has beyond the others

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        self._broken.met = True
        tokens = self._tokenizer(prompts)
        return self._change(tokens, int(self._tokenizer([""]).ids[0, -1]))


@contextmanager
def _tokens(reward: Reward, broken: Broken, change: Callable[[Tokens, int], Tokens]) -> Iterator[None]:
    """The reward, and the towers it reads with, get a tokenizer whose tokens are changed."""
    tokenizer = reward.tokenizer
    if tokenizer is not None:
        changed = _Changed(tokenizer, broken, change)
        for module in reward.modules():
            for name in [name for name, value in vars(module).items() if value is tokenizer]:
                setattr(module, name, changed)
    yield


def _cut(tokens: Tokens, padding: int) -> Tokens:
    ids, mask = tokens.ids.clone(), tokens.mask.clone()
    half = ids.shape[1] // 2
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        if length > half:
            ids[row, half - 1] = ids[row, length - 1]
            ids[row, half:], mask[row, half:] = padding, 0
    return Tokens(ids, mask)


def _trim(tokens: Tokens, _: int) -> Tokens:
    longest = int(tokens.mask.sum(dim=1).max())
    return Tokens(tokens.ids[:, :longest], tokens.mask[:, :longest])
