"""Each check of the contract detects a reward that breaks its promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewards
from rewards.backbones.tokens import Tokens
from rewards.base import Reward
from rewards.verification import contract
from rewards.verification.case import Case
from rewards.verification.samples import PROMPTS, blobs

INFO = rewards.RewardInfo("custom")


class WordTokenizer:
    """One token per word. ``limit`` is the reported limit, ``reads`` the number of words that it reads."""

    def __init__(self, limit: int, reads: int) -> None:
        self.limit, self.reads = limit, reads

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        ids = torch.zeros(len(prompts), self.reads, dtype=torch.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            for i, word in enumerate(prompt.split()[: self.reads]):
                row[i] = sum(word.encode())
        return Tokens(ids, ids > 0)

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(prompt.split()) for prompt in prompts]


class Valid(Reward):
    """A reward that keeps every promise: smooth in the pixels, and it reads eight words."""

    limit, reads = 8, 8

    def _build(self, files: Any) -> None:
        self.tokenizer = WordTokenizer(self.limit, self.reads)
        self.weight = nn.Parameter(torch.linspace(0.1, 1, 3 * 16))

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        coarse = nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)
        return (coarse * self.weight).sin().mean(dim=1) + self.encode(prompts).to(pixels)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        assert self.tokenizer is not None
        ids = self.tokenizer(prompts).ids.double()
        return (ids * torch.linspace(1, 2, ids.shape[1], dtype=torch.float64)).mean(dim=1) / 1000


class BatchNormalised(Valid):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels, prompts)
        return scores / scores.max()


class OnlyLarge(Valid):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        if pixels.shape[-1] < 16:
            raise RuntimeError("kernel size can't be greater than actual input size")
        return super()._score(pixels, prompts)


class IgnoresPrompts(Valid):
    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts))


class IgnoresImages(Valid):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels * 0, prompts)


class FailsOnEmptyPrompts(Valid):
    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([len(prompt.split()[0]) / 10 for prompt in prompts])


class NanOutsideAscii(Valid):
    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(prompt)) if prompt.isascii() else torch.nan for prompt in prompts])


class LimitTooHigh(Valid):
    limit, reads = 9, 8


class LimitTooLow(Valid):
    limit, reads = 7, 8


class Unfrozen(Valid):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        self.weight.requires_grad_()
        return super()._score(pixels, prompts)


class Detached(Valid):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels.detach(), prompts)


class WrongGradient(Valid):
    """The value of one function with the gradient of another."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels, prompts)
        other = pixels.square().flatten(1).mean(dim=1)
        return other + (scores - other).detach()


class PermutedGradient(Valid):
    """The gradients of red and blue are swapped."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        flipped = pixels.flip(1)
        return super()._score(flipped + (pixels - flipped).detach(), prompts)


class DependsOnGradMode(Valid):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels, prompts) + torch.is_grad_enabled() * 0.01


class UsesRandomNumbers(Valid):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        torch.rand(1)
        return super()._score(pixels, prompts)


class CachesInInferenceMode(Valid):
    """A tensor that is cached in inference mode cannot be used with gradients later."""

    cache: Tensor | None = None

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        if torch.is_inference_mode_enabled():
            self.cache = self.weight.sum()
        total = self.weight.sum() if self.cache is None else self.cache
        return super()._score(pixels * total / total, prompts)


class LosesPrecision(Valid):
    """An offset of 100 leaves bfloat16 few distinct values."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels, prompts)
        return (scores + 100) - 100 if scores.dtype == torch.bfloat16 else scores


class NanBesideOthersInHalf(Valid):
    """In bfloat16 a score is NaN in a batch, but not alone."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels, prompts)
        batch = len(prompts) > 1 and max(map(len, prompts)) > 2 * min(map(len, prompts))
        return scores * torch.nan if batch and scores.dtype == torch.bfloat16 else scores


class DependsOnBatchInHalf(Valid):
    """In bfloat16 another score of the batch changes a float32 score by a little more than is allowed."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels.float(), prompts)
        return scores + (len(prompts) - 1) * 3e-4 if pixels.dtype == torch.bfloat16 else scores


class TwoSteps(Valid):
    """In bfloat16 a batch changes scores by ``steps`` steps of that precision."""

    steps = 2

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels, prompts) + 4
        if scores.dtype != torch.bfloat16 or len(prompts) == 1:
            return scores
        return scores + self.steps * 2**-5


class OneStep(TwoSteps):
    steps = 1


class StateOutsideBuffers(Valid):
    """A tensor that is neither a parameter nor a buffer."""

    def _build(self, files: Any) -> None:
        super()._build(files)
        self.offset = torch.ones(())

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels, prompts) + self.offset.to(pixels)


BROKEN: dict[type[Reward], tuple[str, str]] = {
    BatchNormalised: ("scores_do_not_depend_on_the_batch", "scores of images one by one: "),
    OnlyLarge: ("small_images_score_or_raise_value_error", "8 x 5 pixels raise RuntimeError: kernel size"),
    NanBesideOthersInHalf: (
        "scores_do_not_depend_on_the_batch",
        "scores in bfloat16 beside prompts of other lengths: got .nan",
    ),
    DependsOnBatchInHalf: (
        "scores_do_not_depend_on_the_batch",
        "scores in bfloat16 beside prompts of other lengths: ",
    ),
    TwoSteps: (
        "scores_do_not_depend_on_the_batch",
        "scores in bfloat16 beside prompts of other lengths: ",
    ),
    IgnoresPrompts: (
        "uses_prompt_matches_the_scores",
        "uses_prompt is True, but prompts do not change scores",
    ),
    IgnoresImages: ("uses_prompt_matches_the_scores", "images do not change the score"),
    FailsOnEmptyPrompts: ("any_text_can_be_a_prompt", "unusual prompts raise IndexError"),
    NanOutsideAscii: (
        "any_text_can_be_a_prompt",
        "scores for the prompt '一只红色.* are .nan., expected finite",
    ),
    LimitTooHigh: (
        "truncated_prompts_are_counted",
        "word 9 is within the limit of truncated.., but does not change",
    ),
    LimitTooLow: ("truncated_prompts_are_counted", "word 8 is beyond the limit of truncated.., but changes"),
    Unfrozen: ("parameters_are_frozen", "parameters that need or have gradients: weight"),
    Detached: ("gradients_reach_the_images", "differentiable is True, but scores have no gradient"),
    WrongGradient: ("gradients_match_finite_differences", "along the gradient the slope is"),
    PermutedGradient: ("gradients_match_finite_differences", "along .* the slope is"),
    DependsOnGradMode: (
        "scoring_is_deterministic",
        "the same images score differently with gradients enabled",
    ),
    UsesRandomNumbers: ("scoring_is_deterministic", "scoring changes the global random state"),
    CachesInInferenceMode: ("scoring_is_deterministic", "no gradients after a call in inference mode"),
    LosesPrecision: ("bfloat16_scores_are_close", "scores in bfloat16: "),
    StateOutsideBuffers: ("state_dict_restores_the_scores", "the reward keeps offset outside its state dict"),
}


@pytest.fixture(scope="module")
def case() -> Callable[[type[Reward]], Case]:
    return lambda cls: Case(cls(INFO), blobs(3), PROMPTS)


def test_a_valid_reward_passes() -> None:
    contract.check(Valid(INFO))


def test_a_reward_in_bfloat16_may_round_to_a_neighbour(case: Callable[[type[Reward]], Case]) -> None:
    contract.CHECKS["scores_do_not_depend_on_the_batch"](case(OneStep))


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_promise_is_detected(case: Callable[[type[Reward]], Case], cls: type[Reward]) -> None:
    name, message = BROKEN[cls]
    with pytest.raises(AssertionError, match=message):
        contract.CHECKS[name](case(cls))
    with pytest.raises(AssertionError):
        contract.check(cls(INFO))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typical_range": (1, 0)}, r"typical_range is \(1, 0\), expected low < high"),
        ({"role": "teacher"}, "role is 'teacher', expected one of"),
        ({"uses_prompt": False}, "scores without prompts: "),
    ],
)
def test_a_wrong_record_is_detected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        contract.check(Valid(replace(INFO, **change)))


def test_a_reward_may_declare_that_it_has_no_gradient() -> None:
    contract.check(Valid(replace(INFO, differentiable=False)))  # as for judges, images are detached then


def test_unsuitable_images_or_prompts_are_refused() -> None:
    one, grey = blobs(1), [image.convert("L") for image in blobs(2)]
    two = [*one, *blobs(1, 8, 8)]
    for images, prompts in ((one, "a"), (one * 2, "aa"), (one * 2, "abc"), (two, "ab"), (grey, "ab")):
        with pytest.raises(
            ValueError, match=r"got \d images of .* prompts, .*; expected two or more RGB images"
        ):
            contract.check(Valid(INFO), images, prompts)


def test_a_reward_from_a_file_passes(tmp_path: Path) -> None:
    """The example of the documentation, which has no parameters and is not smooth everywhere."""
    path = tmp_path / "sharpness.py"
    path.write_text(
        "import torch, rewards\n"
        "class Sharpness(rewards.Reward):\n"
        "    def _score(self, pixels, prompts):\n"
        "        return torch.diff(pixels, dim=-1).abs().mean(dim=(1, 2, 3))\n",
        encoding="utf-8",
    )
    record = replace(rewards.info(f"{path}:Sharpness"), uses_prompt=False)
    contract.check(rewards.load(record))
