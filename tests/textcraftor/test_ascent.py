"""Test-time optimisation against finite differences, ReNO's loop written out, and the unmodified pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi
from torch import Tensor

from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm
from textcraftor.algorithms.latent_scores import LatentScores, decode_latents
from textcraftor.ascent import RewardAscent, _norm_log_likelihood
from textcraftor.diffusion.conditioning import Conditioning, replace_encoders
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import EncoderWindow, PipelineRunner
from textcraftor.diffusion.sampling import Denoiser, with_timesteps
from textcraftor.diffusion.schedule import SAMPLERS, Schedule
from textcraftor.ledger import Ledger

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TEXTS = ["a cat", "a dog ??", "a hen"]
GUIDANCE = 3.0
DETERMINISTIC = [name for name in SAMPLERS if not Schedule(name).noisy]


class ToyScorer:
    """A reward of latents that is not linear in them. It breaks for one row in one call, and can fall."""

    def __init__(self, broken: int | None = None, call: int = 0, fall: float = 0.0) -> None:
        self.broken, self.call, self.fall, self.calls = broken, call, fall, 0

    @staticmethod
    def value(x0: Tensor) -> Tensor:
        ramp = torch.linspace(0.2, 1.0, x0[0].numel(), dtype=x0.dtype).view_as(x0[0])
        return (torch.tanh(x0) * ramp).flatten(1).sum(dim=1)

    def score_latents(self, latents: Tensor, prompts: Sequence[str]) -> LatentScores:
        self.calls += 1
        skipped = (self.broken,) if self.broken is not None and self.calls == self.call else ()
        total = self.value(latents) - self.fall * self.calls
        return LatentScores(total, {}, {}, torch.zeros_like(latents), skipped)

    def score_latents_with_gradient(self, latents: Tensor, prompts: Sequence[str]) -> LatentScores:
        leaf = latents.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.value(leaf).sum(), leaf)
        scores = self.score_latents(latents, prompts)
        gradient[list(scores.skipped)] = 0
        return LatentScores(scores.total, {}, {}, gradient, scores.skipped)


@pytest.fixture(scope="module")
def load(tiny_pipeline: Path) -> Callable[..., Any]:
    def pipe(sampler: str = "ddim", dtype: str = "float32") -> Any:
        loaded = load_pipeline(tiny_pipeline, device="cpu", dtype=dtype, sampler=sampler)
        for part in (loaded.unet, loaded.vae, loaded.text_encoder):
            part.requires_grad_(False)
        return loaded

    return pipe


@pytest.fixture(scope="module")
def mix() -> RewardMix:
    names = ["world-aesthetic", "world-clip"]
    return RewardMix(Panel(names), {name: MixTerm(1.0) for name in names})


def ascent_for(
    pipe: Any, target: str, steps: int, *, iterations: int, lr: float, scorer: Any
) -> RewardAscent:
    runner = PipelineRunner(pipe, Schedule(steps=steps, guidance=GUIDANCE))
    return RewardAscent(
        runner, scorer, target, iterations, lr, Denoiser.of_pipeline(pipe, GUIDANCE, runner.size)
    )


def noise_for(pipe: Any, seeds: Sequence[int] = (1, 2, 3)) -> Tensor:
    return initial_latents(seeds, PipelineRunner(pipe, Schedule()).latent_shape)


def by_hand(pipe: Any, steps: int, noise: Tensor, embeds: Tensor) -> Tensor:
    """All sampling steps written out, with the whole graph."""
    scheduler = with_timesteps(pipe.scheduler, steps)
    z = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        null, text = pipe.unet(torch.cat([z] * 2), t, encoder_hidden_states=embeds).sample.chunk(2)
        z = scheduler.step(null + GUIDANCE * (text - null), t, z).prev_sample
    return z


def log_likelihood(noise: Tensor) -> Tensor:
    norm = noise.flatten(1).norm(dim=1)
    return (noise[0].numel() - 1) * norm.log() - norm**2 / 2


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("target", ["noise", "embedding"])
def test_gradient_equals_finite_differences(
    load: Callable[..., Any], target: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = load(dtype="float64")
    monkeypatch.setattr("textcraftor.ascent._NOISE_CLIP", 1e9)
    monkeypatch.setattr(  # so that one iteration moves by lr times the gradient
        RewardAscent, "_optimiser", lambda self, leaves: torch.optim.SGD(leaves, self.lr, maximize=True)
    )
    noise, lr = noise_for(pipe).double(), 1e-2
    embeds = Conditioning.encode(pipe, TEXTS, guided=True).embeds

    def objective(change: Tensor) -> Tensor:
        with torch.no_grad():
            if target == "embedding":
                both = torch.cat([embeds[:3], embeds[3:] + change])
                return ToyScorer.value(by_hand(pipe, steps, noise, both))
            x0 = by_hand(pipe, steps, noise + change, embeds)
            return ToyScorer.value(x0) + 0.01 * log_likelihood(noise + change)

    ascent = ascent_for(pipe, target, steps, iterations=1, lr=lr, scorer=ToyScorer())
    moved, conditionings = ascent.optimise(TEXTS, TEXTS, noise)
    own = (conditionings[steps].embeds[3:] - embeds[3:] if target == "embedding" else moved - noise) / lr
    for seed in range(3):
        direction = torch.randn(own.shape, generator=torch.Generator().manual_seed(seed)).double()
        difference = (objective(1e-5 * direction) - objective(-1e-5 * direction)) / 2e-5
        slope = (own * direction).flatten(1).sum(dim=1)
        assert slope.abs().max() > 1e-3
        torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 3])
def test_noise_optimisation_is_reno_written_out(load: Callable[..., Any], steps: int) -> None:
    """Eyring et al. 2024, as in their code: one image, minimised losses, torch's clipping."""
    pipe, lr, iterations = load(dtype="float64"), 5.0, 6
    noise = noise_for(pipe).double()
    ascent = ascent_for(pipe, "noise", steps, iterations=iterations, lr=lr, scorer=ToyScorer())
    own, _ = ascent.optimise(TEXTS, TEXTS, noise)
    embeds = Conditioning.encode(pipe, TEXTS, guided=True).embeds
    for row in range(3):
        eps = noise[row : row + 1].clone().requires_grad_()
        optimiser = torch.optim.SGD([eps], lr=lr, momentum=0.9, nesterov=True)
        best, best_loss = None, torch.inf
        for _ in range(iterations + 1):
            loss = -ToyScorer.value(by_hand(pipe, steps, eps, embeds[[row, 3 + row]]))
            if loss.item() < best_loss:
                best, best_loss = eps.detach().clone(), loss.item()
            optimiser.zero_grad()
            (loss - 0.01 * log_likelihood(eps)).sum().backward()
            norm = torch.nn.utils.clip_grad_norm_([eps], 0.1)
            assert norm > 0.1  # the clipping matters
            optimiser.step()
        assert best is not None
        assert not torch.equal(best[0], noise[row])
        torch.testing.assert_close(own[row], best[0], rtol=1e-6, atol=1e-6)


def test_regulariser_is_the_chi_distribution_of_the_norm() -> None:
    noise = torch.randn((5, 4, 3, 2), generator=torch.Generator().manual_seed(0)).double()
    noise *= torch.linspace(0.5, 2, 5).view(5, 1, 1, 1)
    expected = chi(24).logpdf(noise.flatten(1).norm(dim=1).numpy())
    own = _norm_log_likelihood(noise).numpy()
    np.testing.assert_allclose(own - own[0], expected - expected[0], rtol=1e-10)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_optimised_images_are_those_of_the_pipeline(load: Callable[..., Any], sampler: str) -> None:
    """Also with a tuned encoder in the last steps, a negative prompt and skipped layers."""
    pipe = load(sampler)
    tuned = copy.deepcopy(pipe.text_encoder)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.3)
    encoders = {"tuned": replace_encoders(pipe, {"text_encoder": tuned})}
    # pndm needs four steps, in which its evaluations differ from the number of steps
    for steps, windows in ((4 if sampler == "pndm" else 1, ()), (5, (EncoderWindow({"tuned": 1.0}, 2),))):
        runner = PipelineRunner(
            pipe, Schedule(sampler, steps, GUIDANCE), encoders, windows, negative_prompt="dull", clip_skip=1
        )
        denoiser = Denoiser.of_pipeline(pipe, GUIDANCE, runner.size)
        ascent = RewardAscent(runner, ToyScorer(), "noise", 1, 1.0, denoiser)  # type: ignore[arg-type]
        noise = noise_for(pipe)
        with torch.no_grad():
            x0 = ascent._sample(noise, runner.conditionings(TEXTS))
            mine = decode_latents(pipe.vae, x0).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(mine, runner.generate(TEXTS, noise), atol=5e-6)
        assert denoiser.calls == 2 * 3 * runner.schedule.evaluations(skip_prk_steps=False)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("target", "lr"), [("noise", 5.0), ("embedding", 0.03)])
def test_reward_of_the_pipelines_image_rises(
    load: Callable[..., Any], mix: RewardMix, target: str, lr: float, steps: int
) -> None:
    pipe = load()
    # one-step models have no guidance, so no rows of the empty prompt
    runner = PipelineRunner(pipe, Schedule(steps=steps, guidance=1.0 if steps == 1 else GUIDANCE))
    noise = noise_for(pipe)
    ascent = RewardAscent.of_runner(runner, mix, target, iterations=5, lr=lr)
    best, conditionings = ascent.optimise(TEXTS, TEXTS, noise)
    if target == "embedding":
        assert torch.equal(best, noise)
        (own,), (base,) = conditionings.values(), runner.conditionings(TEXTS).values()
        assert torch.equal(own.embeds[:-3], base.embeds[:-3])  # the empty prompt

    def rewards(*inputs: Any) -> Tensor:
        images = torch.from_numpy(runner.generate(TEXTS, *inputs)).permute(0, 3, 1, 2)
        return mix.score(images, TEXTS).total

    gains = rewards(best, None, conditionings) - rewards(noise)
    assert gains.min() > -1e-4
    assert gains.mean() > 0.01


def test_both_embeddings_of_sdxl_are_optimised(tiny_sdxl: Path, mix: RewardMix) -> None:
    pipe = load_pipeline(tiny_sdxl, device="cpu", dtype="float32", sampler="ddim")
    runner = PipelineRunner(pipe, Schedule(steps=2, guidance=GUIDANCE))
    ascent = RewardAscent.of_runner(runner, mix, "embedding", iterations=3, lr=0.03)
    noise = noise_for(pipe)
    _, conditionings = ascent.optimise(TEXTS, TEXTS, noise)
    (own,), (base,) = conditionings.values(), runner.conditionings(TEXTS).values()
    changed = [
        (a != b).flatten(1).any(dim=1).tolist() for a, b in zip(own.tensors, base.tensors, strict=True)
    ]
    assert changed == [[False] * 3 + [True] * 3] * 2
    assert (runner.generate(TEXTS, noise, None, conditionings) != runner.generate(TEXTS, noise)).any()


@pytest.mark.parametrize("target", ["noise", "embedding"])
def test_no_iterations_give_the_base_systems_images(load: Callable[..., Any], target: str) -> None:
    pipe = load()
    noise = noise_for(pipe)
    ascent = ascent_for(pipe, target, 3, iterations=0, lr=1.0, scorer=None)
    own = ascent.runner.generate(TEXTS, *_as_arguments(ascent.optimise(TEXTS, TEXTS, noise)))
    assert (own == ascent.runner.generate(TEXTS, noise)).all()


def _as_arguments(inputs: tuple[Tensor, Any]) -> tuple[Any, ...]:
    return inputs[0], None, inputs[1]


@pytest.mark.parametrize("target", ["noise", "embedding"])
def test_half_precision_pipelines_are_optimised(
    load: Callable[..., Any], mix: RewardMix, target: str
) -> None:
    pipe = load(dtype="float16")
    runner = PipelineRunner(pipe, Schedule(steps=2, guidance=GUIDANCE))
    noise = noise_for(pipe)
    ascent = RewardAscent.of_runner(runner, mix, target, iterations=2, lr=0.5)
    assert pipe.vae.dtype == torch.float16  # the scorer decodes with a copy
    inputs = ascent.optimise(TEXTS, TEXTS, noise)
    images, base = runner.generate(TEXTS, *_as_arguments(inputs)), runner.generate(TEXTS, noise)
    assert np.isfinite(images).all()
    assert (images != base).any()
    assert inputs[1][2].embeds.dtype == torch.float16


@pytest.mark.parametrize(("target", "lr"), [("noise", 5.0), ("embedding", 0.03)])
def test_images_do_not_depend_on_their_batch(load: Callable[..., Any], target: str, lr: float) -> None:
    pipe = load(dtype="float64")
    ascent = ascent_for(pipe, target, 2, iterations=3, lr=lr, scorer=ToyScorer())
    noise = noise_for(pipe).double()
    whole, both = ascent.optimise(TEXTS, TEXTS, noise)
    single, one = ascent.optimise(TEXTS[1:2], TEXTS[1:2], noise[1:2])
    torch.testing.assert_close(single[0], whole[1], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(one[2].embeds, both[2].embeds[[1, 4]], rtol=1e-6, atol=1e-8)


def test_an_image_whose_reward_is_not_finite_keeps_its_best_iteration(load: Callable[..., Any]) -> None:
    pipe = load(dtype="float64")
    noise = noise_for(pipe).double()

    def optimised(scorer: ToyScorer, iterations: int) -> Tensor:
        ascent = ascent_for(pipe, "noise", 1, iterations=iterations, lr=1.0, scorer=scorer)
        return ascent.optimise(TEXTS, TEXTS, noise)[0]

    finite = [optimised(ToyScorer(), iterations) for iterations in (1, 4)]
    broken = optimised(ToyScorer(broken=1, call=3), 4)  # the start and one iteration are finite
    torch.testing.assert_close(broken[1], finite[0][1])
    assert not torch.equal(broken[1], noise[1])
    assert not torch.equal(broken[1], finite[1][1])
    torch.testing.assert_close(broken[[0, 2]], finite[1][[0, 2]])
    assert torch.equal(optimised(ToyScorer(broken=1, call=1), 4)[1], noise[1])


def test_an_image_whose_gradient_is_not_finite_stops(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = load(dtype="float64")
    noise = noise_for(pipe).double()

    def optimised(iterations: int) -> Tensor:
        ascent = ascent_for(pipe, "noise", 1, iterations=iterations, lr=1.0, scorer=ToyScorer())
        return ascent.optimise(TEXTS, TEXTS, noise)[0]

    finite = [optimised(iterations) for iterations in (1, 4)]
    exact, calls = ToyScorer.score_latents_with_gradient, []

    def infinite(self: ToyScorer, latents: Tensor, prompts: Sequence[str]) -> LatentScores:
        scores = exact(self, latents, prompts)
        calls.append(len(latents))
        if len(calls) == 2:
            scores.gradient[1, 0, 0, 0] = torch.inf
        return scores

    monkeypatch.setattr(ToyScorer, "score_latents_with_gradient", infinite)
    own = optimised(4)
    torch.testing.assert_close(own[1], finite[0][1])  # its reward is finite, and the best so far
    torch.testing.assert_close(own[[0, 2]], finite[1][[0, 2]])


def test_best_iteration_is_kept(load: Callable[..., Any]) -> None:
    pipe = load(dtype="float64")
    noise = noise_for(pipe).double()
    ascent = ascent_for(pipe, "noise", 1, iterations=3, lr=5.0, scorer=ToyScorer(fall=100.0))
    assert torch.equal(ascent.optimise(TEXTS, TEXTS, noise)[0], noise)


@pytest.mark.parametrize(("steps", "checkpointed"), [(1, False), (3, True)])
def test_stated_compute_is_what_is_done(
    load: Callable[..., Any], mix: RewardMix, steps: int, checkpointed: bool
) -> None:
    pipe = load()
    runner = PipelineRunner(pipe, Schedule(steps=steps, guidance=GUIDANCE))
    ascent = RewardAscent.of_runner(runner, mix, "noise", iterations=2, lr=1.0)
    ascent.optimise(TEXTS, TEXTS, noise_for(pipe))
    calls, graphs, _ = (count // 3 for count in ascent.denoiser.take_counts())
    stated = Ledger.of_image(2 * steps, rewards=2, updates=2, checkpointed=checkpointed)
    # the pipeline generates the best image once more
    assert (stated.unet_forwards - 2 * steps, stated.unet_backwards) == (calls, graphs)
    assert (stated.reward_calls, stated.decodes) == (2 * 3, 3 + 1)


def test_compute_of_other_systems() -> None:
    assert Ledger.of_image(50).compute == 50 + 1
    assert Ledger.of_image(50, rewards=4, candidates=8).compute == 8 * (50 + 4 + 1)
