"""DDPO: its decisions, its loss and its advantages, against computations by hand; and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm
from tcbench.errors import ConfigError
from textcraftor.algorithms.ddpo import (
    BUFFER,
    ENOUGH,
    Advantages,
    Policy,
    PolicyLearner,
    decision,
    deviation,
    log_prob,
    policy_loss,
)
from textcraftor.algorithms.learners import Stepper
from textcraftor.algorithms.objective import Objective
from textcraftor.config import TrainConfig
from textcraftor.diffusion.pipeline import load_pipeline
from textcraftor.diffusion.sampling import Denoiser, Rollout
from textcraftor.io.checkpoint import LOG, TrainFolder
from textcraftor.sources import Order, of_texts
from textcraftor.train import train
from textcraftor.tuned import Tuned

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REWARDS = '''
from rewards import Reward, RewardInfo, register

@register(RewardInfo("ddpo-red", uses_prompt=False, differentiable=False))
class Red(Reward):
    """How red a picture is, in whole steps: without a gradient."""
    def _score(self, pixels, prompts):
        return ((pixels[:, 0] - pixels[:, 1:].mean(1)).mean((1, 2)) * 1000).detach().round() / 1000

@register(RewardInfo("ddpo-broken", differentiable=False))
class Broken(Reward):
    """No number for dogs."""
    def _score(self, pixels, prompts):
        scores = pixels.mean((1, 2, 3)).detach()
        return scores * pixels.new_tensor([float("nan") if "dog" in p else 1.0 for p in prompts])
'''

REWARD = "Red"
PROMPTS = ["a cat", "a dog", "a hen", "a cow"]
CONFIG = {
    "steps": 4, "tuned_steps": 4, "drawn_tuned_steps": 4, "guidance": 3.0, "estimator": "ddpo", "eta": 1.0,
    "batch": 8, "group": 4, "updates": 4, "lr": 1e-3, "validate_every": 0, "save_every": 1,
}  # fmt: skip


def policy(pipeline: Path, config: TrainConfig, toys: Path) -> Policy:
    pipe = load_pipeline(pipeline, device="cpu", dtype="float32", sampler="ddim")
    mix = RewardMix(Panel([f"{toys}:Red"]), {f"{toys}:Red": MixTerm(1.0)})
    return Policy(
        Objective(Tuned(pipe, config, guided=True), config, mix, Denoiser(pipe.unet, 3.0), (4, 8, 8))
    )


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_decision_is_the_schedulers_step_with_noise(spacing: str) -> None:
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    e, z, noise = (torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    for t in scheduler.timesteps:
        theirs = scheduler.step(e, t, z, eta=0.7, variance_noise=noise).prev_sample
        std = deviation(scheduler, t, 0.7)
        assert (std > 0) == (t > 0)
        ours = decision(Rollout(None, scheduler, t), e, t, z, 0.7) + std * noise  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_loss_is_ppos_in_a_straight_line() -> None:
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
    found = policy_loss(log_prob(x, now, std), log_prob(x, then, std), torch.from_numpy(advantages), clip)
    assert float(found) == pytest.approx(total / 5, rel=1e-12)


def test_the_first_gradient_is_the_policy_gradient(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    config = config_for(tuned_steps=2)
    module = policy(tiny_pipeline, config, toys)
    samples = Order(of_texts("toy", PROMPTS), 0, group=2).batch(0, 4)
    trajectory, outcome = module.roll(samples)
    assert len(trajectory.latents) == 3
    assert outcome.graded.total.shape == (4,)
    advantages = torch.tensor([1.0, -2.0, 0.5, 0.0])
    trained = list(module.objective.tuned.trained().values())
    loss, moved = module(trajectory, 1, advantages)
    assert moved.abs().max() == 0  # nothing has been learnt yet
    found = torch.autograd.grad(loss, trained, allow_unused=True)

    t = trajectory.rollout.timesteps[1]
    c = module.objective.tuned.encode([sample.text for sample in samples])
    e = trajectory.rollout.output(trajectory.latents[1], t, c)
    mean = decision(trajectory.rollout, e, t, trajectory.latents[1], 1.0)
    std = deviation(trajectory.rollout.scheduler, t, 1.0)
    density = torch.distributions.Normal(mean, std).log_prob(trajectory.latents[2]).flatten(1).mean(1)
    expected = torch.autograd.grad(-(advantages * density).mean(), trained, allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_the_drift_penalty_and_slices_count_here_too(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    samples = Order(of_texts("toy", PROMPTS), 0).batch(0, 3)
    losses, totals = [], []
    for changes in ({}, {"drift_penalty": 5.0, "decode_slice": 1}):
        module = policy(tiny_pipeline, config_for(**changes), toys)
        trajectory, outcome = module.roll(samples)
        with torch.no_grad():
            for parameter in module.objective.tuned.trained().values():
                parameter.mul_(1.1)
        losses.append(float(module(trajectory, 0, torch.zeros(3))[0].detach()))
        totals.append(outcome.graded.total)
    assert losses[0] == 0
    assert losses[1] > 0
    torch.testing.assert_close(totals[0], totals[1])


def test_a_samples_decisions_do_not_depend_on_its_batch(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    module = policy(tiny_pipeline, config_for(), toys)
    samples = Order(of_texts("toy", PROMPTS), 0).batch(0, 3)
    together, _ = module.roll(samples)
    alone, _ = module.roll(samples[2:])
    torch.testing.assert_close(together.latents[-1][2:], alone.latents[-1], rtol=1e-4, atol=1e-5)
    part = together.rows([2])
    assert part.samples == samples[2:]
    assert torch.equal(part.log_probs, together.log_probs[:, 2:])


def test_advantages_are_of_the_batch_until_a_prompt_has_enough() -> None:
    advantages = Advantages()
    rewards = np.array([1.0, 3.0, np.nan])
    assert advantages([0, 1, 1], rewards) == pytest.approx([-1, 1, 0], abs=1e-5)
    many = np.arange(ENOUGH, dtype=np.float64)
    own = np.array([1.0, *many])
    found = advantages([0] * ENOUGH, many)
    assert found == pytest.approx((many - own.mean()) / own.std(), abs=1e-5)
    assert advantages([0, 1], np.array([1e6, 0.0])).max() <= 5
    grouped = Advantages(group=2)([0, 0, 1, 1], np.array([1.0, 3.0, 100.0, 104.0]))
    assert grouped == pytest.approx([-1, 1, -1, 1], abs=1e-5)
    again = Advantages()
    again.restore(advantages.tensors())
    more = np.arange(2.0 * BUFFER)
    assert np.array_equal(again([0] * len(more), more), advantages([0] * len(more), more))


def test_groups_are_of_one_prompt_with_noises_of_their_own() -> None:
    batch = Order(of_texts("toy", PROMPTS), 0, group=3).batch(0, 6)
    assert [sample.prompt for sample in batch[:3]] == [batch[0].prompt] * 3
    assert batch[3].prompt != batch[0].prompt
    whole = [Order(of_texts("toy", PROMPTS), 0, group=3)[number] for number in range(24)]
    assert len({(sample.prompt, sample.noise_seed) for sample in whole}) == 24
    plain = Order(of_texts("toy", PROMPTS), 0)
    assert [plain[n].noise_seed for n in range(8)] == [
        Order(of_texts("toy", PROMPTS), 0, 0, 1)[n].noise_seed for n in range(8)
    ]


def test_what_led_to_better_images_becomes_more_likely(
    tiny_pipeline: Path, config_for: Callable[..., TrainConfig], toys: Path
) -> None:
    config = config_for(policy_updates=1)
    learner = PolicyLearner(policy(tiny_pipeline, config, toys).objective)
    samples = Order(of_texts("toy", PROMPTS), 0, group=4).batch(0, 8)
    trajectory, outcome = learner.module.roll(samples)
    trained = list(learner.module.objective.tuned.trained().values())
    stepper = Stepper(Accelerator(cpu=True), torch.optim.SGD(trained, lr=1.0), trained, clip=1.0)
    made = learner.update(learner.module, samples, 0, stepper)
    assert made.more["clipped"] == 0
    total = outcome.graded.total.double().numpy()
    advantages = torch.tensor((total - total.mean()) / total.std(), dtype=torch.float32)
    with torch.no_grad():
        moved = [learner.module(trajectory, place, advantages)[1] for place in range(4)]
    assert float(torch.stack(moved).mean(0) @ advantages) > 0


def test_a_run_learns_from_a_reward_without_a_gradient(
    config_for: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(config_for(updates=2), tmp_path / "out", device="cpu")
    first, last = TrainFolder(tmp_path / "out").rows(LOG)
    assert (last["samples"], last["unet"] > 2 * 16 * 2 * 4) == (16, True)
    assert {"clipped", "kl", "drift"} <= set(first)
    assert not any(name.startswith("pull/") for name in first)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_going_on_ends_with_the_same_weights(
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


def test_rewards_that_are_not_finite_teach_nothing(
    config_for: Callable[..., TrainConfig], toys: Path, tmp_path: Path
) -> None:
    done = train(config_for(rewards=f"{toys}:Broken=1", updates=2), tmp_path / "out", device="cpu")
    assert done.updates == 2
    assert TrainFolder(tmp_path / "out").rows(LOG)[-1]["skipped"] in (4, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eta": 0.0}, "needs noise"),
        ({"estimator": "chain"}, "others have none"),
        ({"sampler": "euler"}, "needs the sampler ddim"),
        ({"batch": 6}, "expected a multiple of the group"),
    ],
)
def test_settings_that_do_not_go_together_are_said(
    config_for: Callable[..., TrainConfig], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config_for(**changes)


def test_more_steps_than_samples_are_refused(config_for: Callable[..., TrainConfig], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policy_updates is 9, but a process has 8 samples"):
        train(config_for(policy_updates=9), tmp_path / "out", device="cpu")
