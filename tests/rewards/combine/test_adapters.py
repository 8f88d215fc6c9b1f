"""Each adapter is called as in the loops that it is loaded for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rewards
from rewards.base import Reward
from rewards.combine import adapters
from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm, parse_mix
from rewards.preprocess import to_tensor
from rewards.verification.samples import PROMPTS, blobs
from rewards.verification.tiny.checkpoints import tiny_record

Tiny = Callable[[str], Reward]
NAMES = ("pickscore", "world-aesthetic")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.stack([to_tensor(image) for image in blobs(3)])


@pytest.fixture
def mix(tiny_files: Callable[[str], dict[str, Path]]) -> Callable[[dict[str, MixTerm]], RewardMix]:
    def make(parts: dict[str, MixTerm]) -> RewardMix:
        weights = {name: tiny_files(name) for name in parts}
        return RewardMix(Panel([tiny_record(rewards.info(name)) for name in parts], weights=weights), parts)

    return make


class Darkness(Reward):
    """A reward whose lower scores are better."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return 1 - pixels.mean(dim=(1, 2, 3))


DARKNESS = rewards.RewardInfo("darkness", higher_is_better=False)


def test_adapters_are_exported_without_importing_torch() -> None:
    program = "import rewards, sys; assert 'torch' not in sys.modules; print(*map(repr, dir(rewards)))"
    listed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    for name in ("tensor_fn", "pil_fn", "ddpo_fn", "flow_grpo_fn"):
        assert repr(name) in listed
        assert getattr(rewards, name) is getattr(adapters, name)
    with pytest.raises(AttributeError, match="no attribute 'loss_fn'"):
        rewards.loss_fn  # type: ignore[attr-defined]  # noqa: B018


def test_tensor_fn_returns_gradients(tiny: Tiny, images: Tensor) -> None:
    reward = tiny("pickscore")
    by_fn, expected = images.clone().requires_grad_(), images.clone().requires_grad_()
    (-rewards.tensor_fn(reward)(by_fn, PROMPTS).mean()).backward()
    (-reward.score(expected, PROMPTS).mean()).backward()
    assert by_fn.grad is not None
    assert torch.equal(by_fn.grad, expected.grad)


def test_tensor_fn_refuses_a_judge() -> None:
    judge = rewards.load("world-blip")
    with pytest.raises(rewards.WrongRole, match="world-blip has the role 'judge'"):
        rewards.tensor_fn(judge)
    assert callable(rewards.tensor_fn(judge, use=None))


def test_vae_range_maps_decoded_images_to_unit_range(tiny: Tiny, images: Tensor) -> None:
    reward = tiny("world-aesthetic")
    score, decoded = rewards.tensor_fn(reward, vae_range=True), images * 2 - 1
    torch.testing.assert_close(score(decoded, PROMPTS), reward.score(images, PROMPTS), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        score(images.new_full((1, 3, 8, 8), 1.4), ["a"]), score(images.new_ones(1, 3, 8, 8), ["a"])
    )
    with pytest.raises(ValueError, match=r"values from .* expected"):
        rewards.tensor_fn(reward)(decoded, PROMPTS)
    with pytest.raises(ValueError, match="values from nan"):
        score(decoded * torch.nan, PROMPTS)
    with pytest.raises(ValueError, match=r"got images of torch.uint8"):
        score((images * 255).byte(), PROMPTS)
    with pytest.raises(ValueError, match="jpeg-compressibility has no gradient; use it in reinforcement"):
        rewards.tensor_fn(tiny("jpeg-compressibility"))


def test_pil_fn_returns_floats(tiny: Tiny) -> None:
    reward = tiny("pickscore")
    scores = rewards.pil_fn(reward)(blobs(3), PROMPTS)
    assert all(type(score) is float for score in scores)
    assert scores == reward.score(blobs(3), PROMPTS).tolist()
    assert np.isnan(rewards.pil_fn(tiny("world-oracle"))(blobs(1), ["what a day"]))[0]


def ddpo_rewards(reward_fn: Any, batches: list[tuple[Any, ...]]) -> np.ndarray:
    """Rewards as collected by kvablack/ddpo-pytorch (scripts/train.py), from threads."""
    with ThreadPoolExecutor(max_workers=2) as executor:
        waiting = [executor.submit(reward_fn, *batch) for batch in batches]
        answers = [future.result() for future in waiting]
    samples = torch.cat([torch.as_tensor(rewards, device="cpu") for rewards, reward_metadata in answers])
    return samples.cpu().numpy()


def trl_rewards(reward_fn: Any, batches: list[tuple[Any, ...]]) -> np.ndarray:
    """Rewards as collected by TRL's DDPOTrainer (compute_rewards, step)."""
    answers = []
    for images, prompts, prompt_metadata in batches:
        reward, reward_metadata = reward_fn(images, prompts, prompt_metadata)
        answers.append((torch.as_tensor(reward, device="cpu"), reward_metadata))
    scores, _ = zip(*answers, strict=True)
    return torch.cat(scores).cpu().numpy()


@pytest.mark.parametrize("loop", [ddpo_rewards, trl_rewards])
@pytest.mark.parametrize(
    "given",
    [
        lambda images: images,
        lambda images: images.half(),
        lambda images: (images * 255).round().byte(),
        lambda images: (images * 255).round().byte().permute(0, 2, 3, 1).numpy(),
        lambda images: images.permute(0, 2, 3, 1).numpy(),
    ],
    ids=["floats", "halves", "bytes", "array of bytes", "array of floats"],
)
def test_ddpo_fn_returns_rewards(tiny: Tiny, images: Tensor, loop: Any, given: Any) -> None:
    reward = tiny("pickscore")
    prompts, metadata = zip(*[(prompt, {}) for prompt in PROMPTS], strict=True)
    batches = [
        (given(images[order]), tuple(prompts[i] for i in order), metadata) for order in ([0, 1, 2], [2, 0, 1])
    ]
    scores = loop(rewards.ddpo_fn(reward), batches)
    expected = reward.score(images, PROMPTS).detach().numpy()
    np.testing.assert_allclose(scores, [*expected, *expected[[2, 0, 1]]], rtol=1e-4, atol=1e-4)
    advantages = (scores - scores.mean()) / (scores.std() + 1e-8)
    assert advantages.shape == (6,)
    assert scores.dtype == np.float32


def test_ddpo_fn_negates_scores_if_lower_is_better() -> None:
    score, images = rewards.ddpo_fn(Darkness(DARKNESS)), torch.tensor([0.25, 1.0])[:, None, None, None]
    rewarded, details = score(images.expand(2, 3, 4, 4), ("a", "b"), ({}, {}))
    assert rewarded.tolist() == [-0.75, 0]
    assert details == {}


def test_flow_grpo_fn_returns_scores_and_average(mix: Callable[..., RewardMix], images: Tensor) -> None:
    """Called from eight threads and collated as in yifan123/flow_grpo (scripts/train_sd3.py)."""
    loaded = mix(parse_mix("pickscore=1,world-aesthetic=-2"))
    reward_fn = rewards.flow_grpo_fn(loaded)
    orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] * 3
    samples = []
    with ThreadPoolExecutor(max_workers=8) as executor:
        for order in orders:
            prompts, prompt_metadata = [PROMPTS[i] for i in order], [{} for _ in order]
            waiting = executor.submit(reward_fn, images[order], prompts, prompt_metadata, only_strict=True)
            samples.append({"rewards": waiting})
        for sample in samples:
            scored, _ = sample["rewards"].result()
            sample["rewards"] = {
                key: torch.as_tensor(value, device="cpu").float() for key, value in scored.items()
            }
    keys = samples[0]["rewards"]
    collated = {key: torch.cat([sample["rewards"][key] for sample in samples], dim=0) for key in keys}
    assert list(collated) == ["pickscore", "world-aesthetic", "avg"]
    every = torch.tensor(orders).flatten()
    expected = loaded.score(images, PROMPTS)
    for key, value in {**expected.scores, "avg": expected.total}.items():
        torch.testing.assert_close(collated[key], value[every], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(collated["avg"], collated["pickscore"] - 2 * collated["world-aesthetic"])
    assert f"{scored['avg'][0]:.2f}"
    again, _ = reward_fn(
        images, PROMPTS, [{}] * 3, None, only_strict=False
    )  # as in its evaluation, with ref_images
    torch.testing.assert_close(torch.as_tensor(again["avg"]), expected.total, rtol=1e-4, atol=1e-4)


def test_adapters_refuse_roles_that_forbid_training(
    tiny: Tiny, mix: Callable[..., RewardMix], images: Tensor
) -> None:
    judge = tiny("world-oracle")
    with pytest.raises(rewards.WrongRole, match="world-oracle has the role 'judge'"):
        rewards.ddpo_fn(judge)
    parts = {"world-siglip": MixTerm(1.0)}
    with pytest.raises(rewards.WrongRole, match="world-siglip has the role 'selection'"):
        rewards.flow_grpo_fn(mix(parts))
    rewards.flow_grpo_fn(mix(parts), use="selection")
    report = rewards.ddpo_fn(judge, use=None)
    assert np.isfinite(report(images, PROMPTS)[0]).all()
    with pytest.raises(ValueError, match="world-oracle cannot judge the prompt 'what a day'; remove"):
        report(images[:1], ["what a day"])


def test_positive_weight_for_lower_is_better_is_refused(
    mix: Callable[..., RewardMix], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = mix({"pickscore": MixTerm(0.5)})
    monkeypatch.setattr(
        loaded.panel["pickscore"], "info", replace(loaded.panel["pickscore"].info, higher_is_better=False)
    )
    with pytest.raises(ValueError, match=r"pickscore has the weight 0.5, but lower scores are better"):
        rewards.flow_grpo_fn(loaded)


def test_adapters_refuse_invalid_images(tiny: Tiny, images: Tensor) -> None:
    score = rewards.ddpo_fn(tiny("pickscore"))
    for wrong, message in (
        (images * 2, "values from"),
        (np.zeros((8, 8, 3), dtype=np.uint8), r"shape \(8, 8, 3\)"),
        (images.long(), "torch.int64"),
    ):
        with pytest.raises(ValueError, match=message):
            score(wrong, PROMPTS, ({},) * 3)
