"""Rewards broken on purpose, each by one bug that reimplementations of reward models really have.

On random weights a small difference proves little: scores may hardly depend on the step that is wrong. So
every comparison is repeated with these mutants, and counts only if it notices them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.backbones.tokens import Tokenizer, Tokens
from rewards.base import Reward
from rewards.preprocess import CLIP_MEAN, CLIP_STD, HALF

_OTHER_RESIZE = {
    "shortest": "squash",
    "longest": "shortest",
    "squash": "shortest",
    "pad": "squash",
    "area": "squash",
}
"""For each way to fit an image into a square, another one that is often taken instead."""


class Fault:
    """Whether a mutant's bug took part in scoring."""

    reached = False


Mutant = Callable[[Reward, Fault], AbstractContextManager[None]]
"""Breaks a reward permanently; its context sets ``reached`` once the bug takes part."""


@contextmanager
def _wrong_statistics(reward: Reward, fault: Fault) -> Iterator[None]:
    """Normalise with the mean and deviation of another model family.

    The bug: one transform for CLIP (its own statistics) and SigLIP (0.5 and 0.5).
    """
    if reward.profile.mean is not None:
        mean, std = (CLIP_MEAN, CLIP_STD) if reward.profile.mean == HALF else (HALF, HALF)
        reward.profile, fault.reached = replace(reward.profile, mean=mean, std=std), True
    yield


@contextmanager
def _wrong_antialias(reward: Reward, fault: Fault) -> Iterator[None]:
    """Resize a float tensor with the opposite antialiasing.

    The bug: a tensor resize in place of PIL's, or torchvision's changed default (false before 0.17).
    """
    profile = reward.profile
    if profile.resize != "none":
        antialias = False if profile.emulate_pil else not profile.antialias
        reward.profile = replace(profile, emulate_pil=False, antialias=antialias)
        fault.reached = True
    yield


@contextmanager
def _wrong_resize(reward: Reward, fault: Fault) -> Iterator[None]:
    """Crop instead of pad, or squash instead of crop.

    The bug: the usual CLIP transform for a model that was trained on padded or squashed images.
    """
    if reward.profile.resize in _OTHER_RESIZE:
        resize: Any = _OTHER_RESIZE[reward.profile.resize]
        reward.profile, fault.reached = replace(reward.profile, resize=resize), True
    yield


@contextmanager
def _wrong_activation(reward: Reward, fault: Fault) -> Iterator[None]:
    """Use the exact GELU for the quick one, and the quick one for the exact and the tanh one.

    The bug: OpenAI's weights in open_clip's "ViT-L-14" instead of "ViT-L-14-quickgelu".
    """

    def quick(x: Tensor, *_: Any, **__: Any) -> Tensor:
        fault.reached = True
        return x * torch.sigmoid(1.702 * x)

    gelu = F.gelu  # before the patch below

    def exact(x: Tensor) -> Tensor:
        fault.reached = True
        return gelu(x)

    for module in reward.modules():
        if type(module).__name__ in ("QuickGELU", "QuickGELUActivation"):
            module.forward = exact
        elif type(module).__name__ in ("GELUActivation", "GELUTanh", "NewGELUActivation"):
            module.forward = quick
    with patch.object(F, "gelu", quick):
        yield


@contextmanager
def _no_normalisation(reward: Reward, fault: Fault) -> Iterator[None]:
    """Do not scale embeddings to unit length.

    The bug: a dot product in place of the cosine, or a head on raw embeddings.
    """

    def identity(x: Tensor, *_: Any, **__: Any) -> Tensor:
        fault.reached = True
        return x

    with patch.object(F, "normalize", identity):
        yield


@contextmanager
def _wrong_token_limit(reward: Reward, fault: Fault) -> Iterator[None]:
    """Truncate prompts to half of the tokens.

    The bug: another model's context length, such as CLIP's 77 for a SigLIP of 64, or BLIP's 35.
    """
    with _tokens_changed(reward, fault, _truncate):
        yield


@contextmanager
def _padding_attended(reward: Reward, fault: Fault) -> Iterator[None]:
    """Attend to padding in BLIP, which masks it.

    The bug: a forgotten attention mask. Scores then depend on the batch's longest prompt.
    """
    if "blip" in reward.info.family:
        with _tokens_changed(
            reward, fault, lambda tokens, _: Tokens(tokens.ids, torch.ones_like(tokens.mask))
        ):
            yield
    else:
        yield


@contextmanager
def _padding_missing(reward: Reward, fault: Fault) -> Iterator[None]:
    """Do not pad prompts for SigLIP, which was trained on padded ones without a mask.

    The bug: ``padding=True`` in place of ``padding="max_length"``.
    """
    if "siglip" in reward.info.family:
        with _tokens_changed(reward, fault, _unpad):
            yield
    else:
        yield


MUTANTS: Mapping[str, Mutant] = {
    "mean and deviation": _wrong_statistics,
    "antialias": _wrong_antialias,
    "crop or pad": _wrong_resize,
    "activation": _wrong_activation,
    "no L2 norm": _no_normalisation,
    "token limit": _wrong_token_limit,
    "padding attended": _padding_attended,
    "tokens unpadded": _padding_missing,
}
"""By name of the bug."""


class _ChangedTokenizer:
    """A tokenizer whose tokens are changed afterwards."""

    def __init__(self, tokenizer: Tokenizer, fault: Fault, change: Callable[[Tokens, int], Tokens]) -> None:
        self._tokenizer, self._fault, self._change = tokenizer, fault, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)  # some kinds of tokenizer have further attributes

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        self._fault.reached = True
        tokens = self._tokenizer(prompts)
        # The last token of an empty prompt is padding, whatever id a model gives it.
        return self._change(tokens, int(self._tokenizer([""]).ids[0, -1]))


@contextmanager
def _tokens_changed(reward: Reward, fault: Fault, change: Callable[[Tokens, int], Tokens]) -> Iterator[None]:
    """Replace the tokenizer in the reward and in every module that refers to it."""
    tokenizer = reward.tokenizer
    if tokenizer is not None:
        changed = _ChangedTokenizer(tokenizer, fault, change)
        for module in reward.modules():
            for name in [name for name, value in vars(module).items() if value is tokenizer]:
                setattr(module, name, changed)
    yield


def _truncate(tokens: Tokens, padding: int) -> Tokens:
    """Keep the first half of the tokens, with the end token in its last position."""
    ids, mask = tokens.ids.clone(), tokens.mask.clone()
    half = ids.shape[1] // 2
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        if length > half:
            ids[row, half - 1] = ids[row, length - 1]
            ids[row, half:], mask[row, half:] = padding, 0
    return Tokens(ids, mask)


def _unpad(tokens: Tokens, _: int) -> Tokens:
    longest = int(tokens.mask.sum(dim=1).max())
    return Tokens(tokens.ids[:, :longest], tokens.mask[:, :longest])
