"""DDPO and GRPO: decisions, loss and advantages against computations by hand, and that they learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from tcbench.errors import ConfigError
from textcraftor.algorithms.advantages import (
    ENOUGH_REWARDS,
    REMEMBERED_REWARDS,
    PromptAdvantages,
    group_advantages,
)
from textcraftor.algorithms.policy_gradient import PolicyGradientAlgorithm, clipped_policy_loss
from textcraftor.algorithms.trajectories import StochasticSteps
from textcraftor.config import TrainConfig
from textcraftor.io.checkpoint import LOG, TrainFolder
from textcraftor.sources import Batch, PromptSource, SampleOrder
from textcraftor.training import train

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REWARDS = '''
from rewards import Reward, RewardInfo, register

@register(RewardInfo("ddpo-red", uses_prompt=False, differentiable=False))
class Red(Reward):
    """How red an image is, in whole steps: without a gradient."""
    def _score(self, pixels, prompts):
        return ((pixels[:, 0] - pixels[:, 1:].mean(1)).mean((1, 2)) * 1000).detach().round() / 1000

@register(RewardInfo("ddpo-broken", differentiable=False))
class Broken(Reward):
    """NaN for dogs."""
    def _score(self, pixels, prompts):
        scores = pixels.mean((1, 2, 3)).detach()
        return scores * pixels.new_tensor([float("nan") if "dog" in p else 1.0 for p in prompts])
'''

REWARD = "Red"
MakeAlgorithm = Callable[[TrainConfig], PolicyGradientAlgorithm]
MakeBatch = Callable[..., Batch]

PROMPTS = ["a cat", "a dog", "a hen", "a cow"]
CONFIG = {
    "steps": 4, "tuned_steps": 4, "eval_tuned_steps": 4, "guidance": 3.0, "algorithm": "ddpo", "eta": 1.0,
    "batch": 8, "group": 4, "updates": 4, "lr": 1e-3, "every": 0, "save_every": 1,
}  # fmt: skip


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_decision_equals_the_schedulers_step_with_noise(spacing: str) -> None:
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    e, z, noise = (torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    for t in scheduler.timesteps:
        theirs = scheduler.step(e, t, z, eta=0.7, variance_noise=noise).prev_sample
        steps = StochasticSteps(scheduler, 0.7)
        std = steps.std(t)
        assert (std > 0) == (t > 0)
        ours = steps.mean(e, t, z) + std * noise
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_loss_equals_ppo_computed_by_hand() -> None:
    generator = np.random.default_rng(0)
    shape = (5, 2, 3, 3)
    following, old_mean, mean = (generator.normal(size=shape) for _ in range(3))
    advantages, std, clip = np.array([2.0, -1.0, 0.5, -3.0, 0.0]), 0.8, 0.1
    total = 0.0
    for row in range(5):
        logs = []
        for centre in (mean, old_mean):
            parts = [
                -((x - m) ** 2) / (2 * std**2) - np.log(std) - 0.5 * np.log(2 * np.pi)
                for x, m in zip(following[row].ravel(), centre[row].ravel(), strict=True)
            ]
            logs.append(sum(parts) / len(parts))
        ratio = np.exp(logs[0] - logs[1])
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        total += max(-advantages[row] * ratio, -advantages[row] * bounded)
    x, now, then = (torch.from_numpy(values) for values in (following, mean, old_mean))
    log_probs, old = StochasticSteps.log_density(x, now, std), StochasticSteps.log_density(x, then, std)
    loss = clipped_policy_loss(log_probs, old, torch.from_numpy(advantages), clip)
    assert float(loss) == pytest.approx(total / 5, rel=1e-12)


def test_first_gradient_equals_the_policy_gradient(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    algorithm = algorithm_for(config_for(tuned_steps=2))
    samples = batch(4, group=2).samples
    trajectory, scores, _ = algorithm.sample(samples, 0)
    assert len(trajectory.latents) == 3
    assert scores.total.shape == (4,)
    advantages = torch.tensor([1.0, -2.0, 0.5, 0.0])
    trained = list(algorithm.trainable.trained_parameters().values())
    loss, change = algorithm.loss(trajectory, 1, advantages)
    assert change.abs().max() == 0  # the policy has not moved yet
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)

    t = trajectory.rollout.timesteps[1]
    c = algorithm.trainable.encode([sample.text for sample in samples])
    e = trajectory.rollout.output(trajectory.latents[1], t, c)
    steps = StochasticSteps(trajectory.rollout.scheduler, 1.0)
    mean, std = steps.mean(e, t, trajectory.latents[1]), steps.std(t)
    density = torch.distributions.Normal(mean, std).log_prob(trajectory.latents[2]).flatten(1).mean(1)
    expected = torch.autograd.grad(-(advantages * density).mean(), trained, allow_unused=True)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_drift_penalty_and_decode_slices_apply(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    losses, totals = [], []
    for changes in ({}, {"drift_penalty": 5.0, "decode_slice": 1}):
        algorithm = algorithm_for(config_for(**changes))
        trajectory, scores, _ = algorithm.sample(batch(3).samples, 0)
        with torch.no_grad():
            for parameter in algorithm.trainable.trained_parameters().values():
                parameter.mul_(1.1)
        losses.append(float(algorithm.loss(trajectory, 0, torch.zeros(3))[0].detach()))
        totals.append(scores.total)
    assert losses[0] == 0
    assert losses[1] > 0
    torch.testing.assert_close(totals[0], totals[1])


def test_decisions_do_not_depend_on_the_batch(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    algorithm, samples = algorithm_for(config_for()), batch(3).samples
    together = algorithm.sample(samples, 0)[0]
    alone = algorithm.sample(samples[2:], 0)[0]
    torch.testing.assert_close(together.latents[-1][2:], alone.latents[-1], rtol=1e-4, atol=1e-5)
    part = together.rows([2])
    assert part.samples == samples[2:]
    assert all(torch.equal(part.log_probs[step], together.log_probs[step][2:]) for step in part.log_probs)


def test_advantages_use_the_batch_until_a_prompt_has_enough_rewards() -> None:
    advantages = PromptAdvantages()
    rewards = np.array([1.0, 3.0, np.nan])
    assert advantages([0, 1, 1], rewards) == pytest.approx([-1, 1, 0], abs=1e-5)
    many = np.arange(ENOUGH_REWARDS, dtype=np.float64)
    own = np.array([1.0, *many])
    expected = (many - own.mean()) / own.std()
    assert advantages([0] * ENOUGH_REWARDS, many) == pytest.approx(expected, abs=1e-5)
    assert advantages([0, 1], np.array([1e6, 0.0])).max() <= 5
    grouped = PromptAdvantages(group=2)([0, 0, 1, 1], np.array([1.0, 3.0, 100.0, 104.0]))
    assert grouped == pytest.approx([-1, 1, -1, 1], abs=1e-5)
    again = PromptAdvantages()
    again.load_state(advantages.state())
    more = np.arange(2.0 * REMEMBERED_REWARDS)
    assert np.array_equal(again([0] * len(more), more), advantages([0] * len(more), more))


def test_groups_share_a_prompt_with_different_noises(batch: MakeBatch) -> None:
    source = PromptSource.from_texts("toy", PROMPTS)
    samples = batch(6, group=3).samples
    assert [sample.prompt for sample in samples[:3]] == [samples[0].prompt] * 3
    assert samples[3].prompt != samples[0].prompt
    grouped = SampleOrder(source, 0, group=3)
    whole = [grouped[number] for number in range(24)]
    assert len({(sample.prompt, sample.noise_seed) for sample in whole}) == 24
    plain, single = SampleOrder(source, 0), SampleOrder(source, 0, 0, 1)
    assert [plain[n].noise_seed for n in range(8)] == [single[n].noise_seed for n in range(8)]


def test_decisions_with_little_noise_are_left_out(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    assert StochasticSteps.trainable_steps([0.6, 0.3, 0.1, 0.03, 0.0], 0.1) == [0, 1, 2]
    assert StochasticSteps.trainable_steps([0.6, 0.3, 0.1, 0.03, 0.0], 0.0) == [0, 1, 2, 3]
    assert StochasticSteps.trainable_steps([0.0], 0.1) == []
    algorithm = algorithm_for(config_for(min_noise=0.0, policy_steps=2))
    chosen = [frozenset(algorithm.sample(batch(2).samples, update)[0].log_probs) for update in range(8)]
    assert {len(steps) for steps in chosen} == {2}
    assert len(set(chosen)) > 2
    assert chosen[0] == frozenset(algorithm.sample(batch(2).samples, 0)[0].log_probs)


def test_clip_range_allows_the_same_change_of_a_decision_for_all_sizes(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    algorithm = algorithm_for(config_for(ratio_clip=1e-4))
    for shape in ((1, 4, 64, 64), (1, 4, 8, 8), (1, 16, 128, 128)):
        z = torch.zeros(shape)
        assert algorithm._ratio_clip(z) * z[0].numel() == pytest.approx(1e-4 * 4 * 64 * 64)


def test_kl_penalty_is_the_divergence_of_two_gaussians(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    algorithm = algorithm_for(config_for(kl_penalty=3.0))
    samples = batch(2).samples
    trajectory = algorithm.sample(samples, 0)[0]
    with torch.no_grad():
        assert float(algorithm.loss(trajectory, 1, torch.zeros(2))[0]) == pytest.approx(0, abs=1e-9)
        for parameter in algorithm.trainable.trained_parameters().values():
            parameter.mul_(1.1)
        loss = algorithm.loss(trajectory, 1, torch.zeros(2))[0]
        t, z, texts = trajectory.rollout.timesteps[1], trajectory.latents[1], [s.text for s in samples]
        steps = StochasticSteps(trajectory.rollout.scheduler, 1.0)
        now, original = (
            torch.distributions.Normal(steps.mean(trajectory.rollout.output(z, t, c), t, z), steps.std(t))
            for c in (algorithm.trainable.encode(texts), algorithm.trainable.encode_original(texts))
        )
    expected = 3.0 * torch.distributions.kl_divergence(now, original).mean()
    assert float(expected) > 1e-6
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-9)


def test_group_advantages_compare_within_groups() -> None:
    rewards = np.array([1.0, 3.0, 100.0, 100.5, np.nan, 7.0])
    advantages = group_advantages([4, 4, 9, 9, 9, 2], rewards)
    differences = np.array([-1, 1, -0.25, 0.25, 0])
    deviation = differences.std()
    assert advantages == pytest.approx([*differences[:4] / deviation, 0, 0], abs=1e-5)
    assert np.array_equal(group_advantages([0, 0], np.array([np.nan, np.nan])), np.zeros(2))


def test_decisions_with_higher_rewards_become_more_likely(
    config_for: Callable[..., TrainConfig], algorithm_for: MakeAlgorithm, batch: MakeBatch
) -> None:
    algorithm = algorithm_for(config_for(policy_updates=1))
    samples = batch(8, group=4)
    trajectory, scores, _ = algorithm.sample(samples.samples, 0)
    result = algorithm.step(samples)
    assert result.extra["clipped"] == 0
    total = scores.total.double().numpy()
    advantages = torch.tensor((total - total.mean()) / total.std(), dtype=torch.float32)
    with torch.no_grad():
        changes = [algorithm.loss(trajectory, index, advantages)[1] for index in trajectory.log_probs]
    assert float(torch.stack(changes).mean(0) @ advantages) > 0


def test_run_trains_on_a_reward_without_gradient(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(config_for(updates=2), tmp_path / "out", device="cpu")
    first, last = TrainFolder(tmp_path / "out").rows(LOG)
    # forward passes of 4 steps, then forward and backward of the 2 with enough noise, both guided
    assert (last["samples"], last["unet"]) == (16, 16 * 2 * (4 + 2 * 2))
    assert {"clipped", "kl", "drift"} <= set(first)
    assert not any(name.startswith("pull/") for name in first)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_resume_gives_identical_weights(
    config_for: Callable[..., TrainConfig], tmp_path: Path, micro_batch: int
) -> None:
    train(config_for(micro_batch=micro_batch), tmp_path / "whole", device="cpu")
    for updates in (2, 4):
        train(config_for(micro_batch=micro_batch, updates=updates), tmp_path / "halves", device="cpu")
    pair = []
    for name in ("whole", "halves"):
        newest = TrainFolder(tmp_path / name).newest()
        assert newest is not None
        pair.append(load_file(newest.path / "text_encoder" / "model.safetensors"))
    assert all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0])


def test_rewards_that_are_not_finite_are_skipped(
    config_for: Callable[..., TrainConfig], toys: Path, tmp_path: Path
) -> None:
    done = train(config_for(mix=f"{toys}:Broken=1", updates=2), tmp_path / "out", device="cpu")
    assert done.updates == 2
    assert TrainFolder(tmp_path / "out").rows(LOG)[-1]["skipped"] in (4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta": 0.0}, "ddpo and grpo require eta > 0"),
        ({"algorithm": "chain"}, "other algorithms require eta = 0"),
        ({"sampler": "euler"}, 'only "ddim" supports eta'),
        ({"batch": 6}, "is not a multiple of data.group"),
        ({"algorithm": "grpo", "group": 1}, "compares samples of one prompt"),
        ({"kl_penalty": 0.1, "parts": ("unet",)}, "requires algorithm.name = ddpo or grpo and a frozen UNet"),
        ({"algorithm": "chain", "eta": 0.0, "kl_penalty": 0.1}, "requires algorithm.name = ddpo or grpo"),
    ],
)
def test_conflicting_settings_are_refused(
    config_for: Callable[..., TrainConfig], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(**changes)


def test_more_policy_updates_than_samples_are_refused(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="policy_updates is 9, but a process has 8 samples"):
        train(config_for(policy_updates=9), tmp_path / "out", device="cpu")
