"""Estimators against autograd through whole graphs and against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from textcraftor.algorithms.latent_scores import decode_latents
from textcraftor.config import _SAMPLERS
from textcraftor.diffusion.conditioning import Conditioning
from textcraftor.diffusion.estimators import ESTIMATORS, UpdateRandom
from textcraftor.diffusion.forward_process import ForwardProcess
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.sampling import Denoiser, Rollout, with_timesteps
from textcraftor.diffusion.schedule import MEMORYLESS, Schedule

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TEXTS = ["a cat", "a dog ??"]
GUIDANCE, STEPS, LAST = 3.0, 4, 3


def value(x0: Tensor) -> Tensor:
    """A reward of latents that is not linear in them, of each row."""
    ramp = torch.linspace(0.2, 1.0, x0[0].numel(), dtype=x0.dtype).view_as(x0[0])
    return (torch.tanh(x0) * ramp + 0.1 * x0.square()).flatten(1).sum(dim=1)


def reward_gradient(x0: Tensor) -> Tensor:
    leaf = x0.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    return gradient


class Fixed(UpdateRandom):
    """Random numbers that are always the same."""

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.noises = 0

    def integer(self, limit: int) -> int:
        assert self.number < limit
        return self.number

    def noise(self, z: Tensor) -> Tensor:
        self.noises += 1
        seeds = [100 * self.noises + row for row in range(len(z))]
        return initial_latents(seeds, (z.shape[1], z.shape[2], z.shape[3])).to(z)


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Path) -> Any:
    made = load_pipeline(tiny_pipeline, device="cpu", dtype="float64", sampler="ddim")
    for part in (made.unet, made.vae):
        part.requires_grad_(False)
    return made


@pytest.fixture
def start(pipe: Any) -> Tensor:
    shape = PipelineRunner(pipe, Schedule("ddim", STEPS, GUIDANCE)).latent_shape
    return initial_latents([1, 2], shape).double()


def rollout(pipe: Any, *, checkpointed: bool = False) -> Rollout:
    scheduler = with_timesteps(pipe.scheduler, STEPS)
    return Rollout(Denoiser(pipe.unet, GUIDANCE), scheduler, scheduler.timesteps[-LAST:], checkpointed)


def by_hand(pipe: Any, z: Tensor, c: Conditioning, shown: Callable[[Tensor], Tensor]) -> Tensor:
    """The last steps written out, with the whole graph; the UNet sees ``shown(z)`` in place of z."""
    scheduler = with_timesteps(pipe.scheduler, STEPS)
    for t in scheduler.timesteps[-LAST:]:
        both = pipe.unet(torch.cat([shown(z)] * 2), t, encoder_hidden_states=c.embeds).sample
        null, text = both.chunk(2)
        z = scheduler.step(null + GUIDANCE * (text - null), t, z).prev_sample
    return z


def encoder_gradients(pipe: Any, scalar: Tensor) -> list[Tensor]:
    parameters = [p for p in pipe.text_encoder.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(scalar, parameters, allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in gradients]


def alike(ours: list[Tensor], expected: list[Tensor], tolerance: float = 1e-9) -> None:
    assert max(float(part.abs().max()) for part in expected) > 1e-6  # the comparison is not of zeros
    for own, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_chain_equals_autograd_through_the_whole_graph(pipe: Any, start: Tensor, checkpointed: bool) -> None:
    c = Conditioning.encode(pipe, TEXTS, guided=True)
    surrogate = ESTIMATORS["chain"](
        rollout(pipe, checkpointed=checkpointed), start, c, reward_gradient, Fixed()
    )
    whole = by_hand(pipe, start, Conditioning.encode(pipe, TEXTS, guided=True), lambda z: z)
    alike(encoder_gradients(pipe, surrogate), encoder_gradients(pipe, value(whole).sum()))


@pytest.mark.parametrize("name", ["conditioning", "detached-chain"])
def test_detached_latents_give_the_gradient_at_the_conditioning(pipe: Any, start: Tensor, name: str) -> None:
    surrogate = ESTIMATORS[name](
        rollout(pipe), start, Conditioning.encode(pipe, TEXTS, guided=True), reward_gradient, Fixed()
    )
    graph = by_hand(pipe, start, Conditioning.encode(pipe, TEXTS, guided=True), Tensor.detach)
    whole = by_hand(pipe, start, Conditioning.encode(pipe, TEXTS, guided=True), lambda z: z)
    expected = encoder_gradients(pipe, value(graph).sum())
    alike(encoder_gradients(pipe, surrogate), expected)
    other = encoder_gradients(pipe, value(whole).sum())
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(expected, other, strict=True))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_bounded_gradients_equal_bounded_products_of_jacobians(
    pipe: Any, start: Tensor, checkpointed: bool
) -> None:
    """Backpropagated step by step, with each row cut to its length at the final latents."""
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    steps = replace(rollout(pipe, checkpointed=checkpointed), bounded=True)
    # growing latents: without a bound, rows would have longer gradients at earlier steps
    steps.scheduler.step, original = (
        lambda e, t, z: SimpleNamespace(prev_sample=1.5 * original(e, t, z).prev_sample),
        steps.scheduler.step,
    )
    surrogate = ESTIMATORS["chain"](steps, start, c, reward_gradient, Fixed())
    (bounded,) = torch.autograd.grad(surrogate, c.tensors)
    latents = [start]
    with torch.no_grad():
        for t in steps.timesteps:
            latents.append(steps.step(steps.output(latents[-1], t, c), t, latents[-1]))
    gradient, total = reward_gradient(latents[-1]), torch.zeros_like(c.embeds)
    limit, cut = gradient.flatten(1).norm(dim=1), 0
    for t, before in reversed(list(zip(steps.timesteps, latents, strict=False))):
        z, leaf = before.requires_grad_(), c.leaf()
        after = steps.step(steps.output(z, t, leaf), t, z)
        gradient, own = torch.autograd.grad(after, (z, leaf.embeds), gradient)
        total += own
        length = gradient.flatten(1).norm(dim=1)
        cut += int((length > limit).sum())
        gradient = gradient * (limit / length).clamp(max=1)[:, None, None, None]
    assert cut > 0
    torch.testing.assert_close(bounded, total, rtol=1e-9, atol=1e-9)
    (one,) = torch.autograd.grad(
        ESTIMATORS["chain"](steps, start[:1], Conditioning(c.embeds[::2]), reward_gradient, Fixed()),
        c.tensors,
    )
    torch.testing.assert_close(one[::2], bounded[::2], rtol=1e-6, atol=1e-8)  # rows are bounded alone


def test_chain_agrees_with_finite_differences(pipe: Any, start: Tensor) -> None:
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    surrogate = ESTIMATORS["chain"](rollout(pipe), start, c, reward_gradient, Fixed())
    (gradient,) = torch.autograd.grad(surrogate, c.tensors)
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(3)).double()
    h = 1e-5
    with torch.no_grad():
        up, down = (
            value(by_hand(pipe, start, Conditioning(c.embeds + s * h * direction), lambda z: z)).sum()
            for s in (1, -1)
        )
    expected = float((up - down) / (2 * h))
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6)


def test_conditioning_only_agrees_with_finite_differences(pipe: Any, start: Tensor) -> None:
    """The UNet sees the latents of the unchanged prompt, as in the estimator."""
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    surrogate = ESTIMATORS["conditioning"](rollout(pipe), start, c, reward_gradient, Fixed())
    (gradient,) = torch.autograd.grad(surrogate, c.tensors)
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(4)).double()
    shown: list[Tensor] = []

    def record(z: Tensor) -> Tensor:
        shown.append(z)
        return z

    h = 1e-5
    with torch.no_grad():
        by_hand(pipe, start, c, record)
        sides = []
        for sign in (1, -1):
            kept = iter(shown)
            moved = Conditioning(c.embeds + sign * h * direction)
            sides.append(value(by_hand(pipe, start, moved, lambda z, kept=kept: next(kept))).sum())  # type: ignore[misc]
    expected = float((sides[0] - sides[1]) / (2 * h))
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6)


def test_truncation_equals_the_chain_through_fewer_steps(pipe: Any, start: Tensor) -> None:
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    surrogate = ESTIMATORS["truncation"](rollout(pipe), start, c, reward_gradient, Fixed(2))
    (gradient,) = torch.autograd.grad(surrogate, c.tensors)
    before, after = rollout(pipe).split(2)
    with torch.no_grad():
        z = before.run(start, c)
    (expected,) = torch.autograd.grad(value(after.run(z, c)).sum(), c.tensors)
    alike([gradient], [expected])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_one_step_equals_the_schedulers_prediction(pipe: Any, start: Tensor, prediction: str) -> None:
    scheduler = with_timesteps(
        type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=prediction), STEPS
    )
    steps = Rollout(Denoiser(pipe.unet, GUIDANCE), scheduler, scheduler.timesteps[-LAST:])
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    surrogate = ESTIMATORS["one-step"](steps, start, c, reward_gradient, Fixed(0))
    t = steps.timesteps[0]
    e = steps.output(start, t, c)
    theirs = scheduler.step(e, t, start).pred_original_sample
    torch.testing.assert_close(ForwardProcess(scheduler).predict_x0(e, t, start), theirs)
    (gradient,) = torch.autograd.grad(surrogate, c.tensors)
    (expected,) = torch.autograd.grad(value(theirs).sum(), c.tensors)
    alike([gradient], [expected], 1e-6)


def test_low_variance_averages_fresh_noises(pipe: Any, start: Tensor) -> None:
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    surrogate = ESTIMATORS["low-variance"](rollout(pipe), start, c, reward_gradient, Fixed())
    (gradient,) = torch.autograd.grad(surrogate, c.tensors)
    with torch.no_grad():
        x0 = rollout(pipe).run(start, c)
    random, steps, total = Fixed(), rollout(pipe), torch.zeros((), dtype=torch.float64)
    t = steps.timesteps[-1]
    for _ in range(2):
        z = ForwardProcess(steps.scheduler).add_noise(x0, t, random.noise(x0))
        total = (
            total + value(ForwardProcess(steps.scheduler).predict_x0(steps.output(z, t, c), t, z)).sum() / 2
        )
    (expected,) = torch.autograd.grad(total, c.tensors)
    alike([gradient], [expected])


def test_direct_rewards_the_prediction_from_a_noised_image(pipe: Any, start: Tensor) -> None:
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    surrogate = ESTIMATORS["direct"](rollout(pipe), start, c, reward_gradient, Fixed(500))
    (gradient,) = torch.autograd.grad(surrogate, c.tensors)
    alpha = pipe.scheduler.alphas_cumprod[500]
    z = alpha.sqrt() * start + (1 - alpha).sqrt() * Fixed().noise(start)
    e = Denoiser(pipe.unet, GUIDANCE)(z, torch.tensor(500), c)
    x0 = alpha.sqrt() * z - (1 - alpha).sqrt() * e  # the model predicts velocities
    (expected,) = torch.autograd.grad(value(x0).sum(), c.tensors)
    alike([gradient], [expected], 1e-6)


def test_denoising_equals_the_unguided_diffusion_loss(pipe: Any, start: Tensor) -> None:
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    surrogate = ESTIMATORS["denoising"](rollout(pipe), start, c, reward_gradient, Fixed(500))
    (gradient,) = torch.autograd.grad(surrogate, c.tensors)
    noise = Fixed().noise(start)
    z = pipe.scheduler.add_noise(start, noise, torch.tensor([500]))
    velocity = pipe.scheduler.get_velocity(start, noise, torch.tensor([500]))
    text = c.embeds[len(start) :]
    said = pipe.unet(z, torch.tensor(500), encoder_hidden_states=text).sample
    (expected,) = torch.autograd.grad(-(said - velocity).square().flatten(1).mean(1).sum(), c.tensors)
    alike([gradient], [expected], 1e-6)
    assert gradient[: len(start)].abs().max() == 0  # the empty prompt is not used


@pytest.mark.parametrize("sampler", _SAMPLERS)
def test_gradients_pass_through_every_sampler(tiny_pipeline: Path, sampler: str) -> None:
    pipe = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler=sampler)
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    scheduler = with_timesteps(pipe.scheduler, STEPS)
    z = initial_latents([1, 2], (4, 8, 8)) * scheduler.init_noise_sigma
    gradients = []
    for name in ("detached-chain", "conditioning"):
        steps = Rollout(
            Denoiser(pipe.unet, GUIDANCE), with_timesteps(pipe.scheduler, STEPS), scheduler.timesteps
        )
        surrogate = ESTIMATORS[name](steps, z, c, reward_gradient, Fixed())
        gradients += torch.autograd.grad(surrogate, c.tensors)
    alike([gradients[1]], [gradients[0]], 1e-3)


@pytest.mark.parametrize("sampler", _SAMPLERS)
def test_rollout_equals_the_pipeline(tiny_pipeline: Path, sampler: str) -> None:
    pipe = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler=sampler)
    runner = PipelineRunner(pipe, Schedule(sampler, STEPS, GUIDANCE))
    noise = initial_latents([1, 2], runner.latent_shape)
    theirs = runner.generate(TEXTS, noise)
    scheduler = with_timesteps(pipe.scheduler, STEPS)
    steps = Rollout(Denoiser(pipe.unet, GUIDANCE), scheduler, scheduler.timesteps)
    with torch.no_grad():
        z = steps.run(noise * scheduler.init_noise_sigma, Conditioning.encode(pipe, TEXTS, guided=True))
        ours = decode_latents(pipe.vae, z).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("sampler", MEMORYLESS)
def test_rollout_can_start_at_any_step(tiny_pipeline: Path, sampler: str) -> None:
    pipe = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler=sampler)
    denoise = Denoiser(pipe.unet, GUIDANCE)
    whole = with_timesteps(pipe.scheduler, STEPS)
    z = initial_latents([1], (4, 8, 8)) * whole.init_noise_sigma
    with torch.no_grad():
        c = Conditioning.encode(pipe, TEXTS[:1], guided=True)
        before, after = Rollout(denoise, whole, whole.timesteps).split(2)
        middle = before.run(z, c)
        begun = with_timesteps(pipe.scheduler, STEPS, 2)
        again = Rollout(denoise, begun, begun.timesteps[2:]).run(middle, c)
        assert torch.equal(again, after.run(middle, c))


def test_denoiser_counts_its_work(pipe: Any, start: Tensor) -> None:
    steps = rollout(pipe)
    with torch.no_grad():
        steps.run(start, Conditioning.encode(pipe, TEXTS, guided=True))
    denoise: Any = steps.denoiser
    assert (denoise.calls, denoise.graphs) == (2 * 2 * LAST, 0)
    steps.run(start, Conditioning.encode(pipe, TEXTS, guided=True))
    assert (denoise.calls, denoise.graphs) == (4 * 2 * LAST, 2 * 2 * LAST)
    again = rollout(pipe, checkpointed=True)
    c = Conditioning.encode(pipe, TEXTS, guided=True).leaf()
    torch.autograd.grad(again.run(start, c).sum(), c.tensors)
    counted: Any = again.denoiser
    assert (counted.calls, counted.graphs) == (2 * 4 * LAST, 4 * LAST)  # computed twice, one backward pass
