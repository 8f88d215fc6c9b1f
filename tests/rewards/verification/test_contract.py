"""Each promise of the contract is broken once, and the check of that promise says so."""

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

INFO = rewards.RewardInfo("mine")


class Words:
    """A word a token; what is beyond the limit is cut."""

    def __init__(self, limit: int, reads: int) -> None:
        self.limit, self.reads = limit, reads

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        ids = torch.zeros(len(prompts), self.reads, dtype=torch.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            for place, word in enumerate(prompt.split()[: self.reads]):
                row[place] = sum(word.encode())
        return Tokens(ids, ids > 0)

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(prompt.split()) for prompt in prompts]


class Honest(Reward):
    """A reward that keeps every promise: smooth in the pixels, and it reads eight words."""

    says, reads = 8, 8

    def _build(self, files: Any) -> None:
        self.tokenizer = Words(self.says, self.reads)
        self.weight = nn.Parameter(torch.linspace(0.1, 1, 3 * 16))

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        coarse = nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)
        return (coarse * self.weight).sin().mean(dim=1) + self.read(prompts).to(pixels)

    def read(self, prompts: Sequence[str]) -> Tensor:
        assert self.tokenizer is not None
        ids = self.tokenizer(prompts).ids.double()
        return (ids * torch.linspace(1, 2, ids.shape[1], dtype=torch.float64)).mean(dim=1) / 1000


class BatchSized(Honest):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels, prompts)
        return scores / scores.max()


class OnlyLarge(Honest):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        if pixels.shape[-1] < 16:
            raise RuntimeError("kernel size can't be greater than actual input size")
        return super()._score(pixels, prompts)


class Deaf(Honest):
    def read(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts))


class Blind(Honest):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels * 0, prompts)


class NeedsWords(Honest):
    def read(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([len(prompt.split()[0]) / 10 for prompt in prompts])


class NotANumber(Honest):
    def read(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(prompt)) if prompt.isascii() else torch.nan for prompt in prompts])


class CountsTooFew(Honest):
    says, reads = 9, 8


class CountsTooMany(Honest):
    says, reads = 7, 8


class Thawed(Honest):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        self.weight.requires_grad_()
        return super()._score(pixels, prompts)


class Numb(Honest):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels.detach(), prompts)


class Steep(Honest):
    """The gradient of the rounded score is that of another function: right in value, wrong in slope."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels, prompts)
        other = pixels.square().flatten(1).mean(dim=1)
        return other + (scores - other).detach()


class Flipped(Honest):
    """The same slope along no direction but one: gradients of red and blue change places."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        turned = pixels.flip(1)
        return super()._score(turned + (pixels - turned).detach(), prompts)


class Moody(Honest):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels, prompts) + torch.is_grad_enabled() * 0.01


class Dice(Honest):
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        torch.rand(1)
        return super()._score(pixels, prompts)


class Keeps(Honest):
    """What it made first is kept, in inference mode too."""

    kept: Tensor | None = None

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        if torch.is_inference_mode_enabled():
            self.kept = self.weight.sum()
        known = self.weight.sum() if self.kept is None else self.kept
        return super()._score(pixels * known / known, prompts)


class Coarse(Honest):
    """Far from zero, so that half precision holds few of its values."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super()._score(pixels, prompts)
        return (scores + 100) - 100 if scores.dtype == torch.bfloat16 else scores


class Hidden(Honest):
    """Its state is in no tensor that a checkpoint holds."""

    def _build(self, files: Any) -> None:
        super()._build(files)
        self.offset = torch.ones(())

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return super()._score(pixels, prompts) + self.offset.to(pixels)


BROKEN: dict[type[Reward], tuple[str, str]] = {
    BatchSized: ("a_score_is_of_its_image_alone", "score otherwise alone than together"),
    OnlyLarge: ("small_pictures_are_scored_or_refused", "8 x 5 gives a RuntimeError: kernel size"),
    Deaf: ("the_record_says_what_matters", "uses_prompt is True, but prompts do not change scores"),
    Blind: ("the_record_says_what_matters", "the images do not matter"),
    NeedsWords: ("any_text_is_a_prompt", "odd prompts give a IndexError"),
    NotANumber: ("any_text_is_a_prompt", "scores for the prompt '一只红色.* are .nan., expected finite"),
    CountsTooFew: ("what_is_cut_is_counted", "word 9 is counted as read, but changes nothing"),
    CountsTooMany: ("what_is_cut_is_counted", "word 8 is counted as cut, but changes the score"),
    Thawed: ("nothing_in_it_is_trained", "parameters that need or have gradients: weight"),
    Numb: ("gradients_reach_the_images", "differentiable is True, but scores have no gradient"),
    Steep: ("gradients_are_slopes", "along its own direction the gradient is"),
    Flipped: ("gradients_are_slopes", "along .* direction the gradient is"),
    Moody: ("the_same_again", "with gradients enabled the same images score"),
    Dice: ("the_same_again", "scoring draws random numbers"),
    Keeps: ("the_same_again", "after a call in inference mode there are no gradients"),
    Coarse: ("half_precision_stays_near", "scores in bfloat16: "),
    Hidden: ("its_state_is_all_of_it", "the reward keeps offset outside its state"),
}


@pytest.fixture(scope="module")
def case() -> Callable[[type[Reward]], Case]:
    return lambda cls: Case(cls(INFO), blobs(3), PROMPTS)


def test_an_honest_reward_keeps_every_promise() -> None:
    contract.check(Honest(INFO))


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_promise_is_found(case: Callable[[type[Reward]], Case], cls: type[Reward]) -> None:
    name, message = BROKEN[cls]
    with pytest.raises(AssertionError, match=message):
        getattr(contract, name)(case(cls))
    with pytest.raises(AssertionError):
        contract.check(cls(INFO))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typical_range": (1, 0)}, r"typical_range is \(1, 0\), expected low < high"),
        ({"role": "teacher"}, "the role is 'teacher', expected one of"),
        ({"differentiable": False}, ""),
        ({"uses_prompt": False}, "scores without prompts: "),
    ],
)
def test_a_record_that_is_wrong_is_found(change: dict[str, Any], message: str) -> None:
    reward = Honest(replace(INFO, **change))
    if change == {"differentiable": False}:  # its gradient is cut off: a judge that keeps its word
        contract.check(reward)
        return
    with pytest.raises(AssertionError, match=message):
        contract.check(reward)


def test_it_takes_a_prompt_of_its_own_for_each_of_two_images_or_more() -> None:
    one, grey = blobs(1), [image.convert("L") for image in blobs(2)]
    two = [*one, *blobs(1, 8, 8)]
    for images, prompts in ((one, "a"), (one * 2, "aa"), (one * 2, "abc"), (two, "ab"), (grey, "ab")):
        with pytest.raises(ValueError, match=r"got \d images of .* prompts, .*; expected two or more, RGB"):
            contract.check(Honest(INFO), images, prompts)


def test_a_reward_from_a_file_keeps_them_too(tmp_path: Path) -> None:
    """The one of the documentation, which has kinks and no parameters."""
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
