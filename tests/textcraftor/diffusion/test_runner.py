"""Sampling with other text encoders in some steps, here and with an unmodified diffusers pipeline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textcraftor.algorithms.latent_scores import decode_latents
from textcraftor.diffusion.conditioning import Conditioning, replace_encoders
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import ORIGINAL, EncoderWindow, PipelineRunner, _generators, switch_encoder
from textcraftor.diffusion.sampling import Denoiser, Rollout, with_timesteps
from textcraftor.diffusion.schedule import SAMPLERS, Schedule

TEXTS = ["a cat", "a dog"]
SCHEDULE = Schedule("ddim", 5, 3.0)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Path) -> Any:
    return load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler="ddim")


@pytest.fixture(scope="module")
def tuned(pipe: Any) -> Any:
    """A text encoder with other embeddings."""
    other = copy.deepcopy(pipe.text_encoder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    return other


@pytest.fixture
def noise(pipe: Any) -> torch.Tensor:
    return initial_latents([1, 2], PipelineRunner(pipe, SCHEDULE).latent_shape)


def runner_with(pipe: Any, tuned: Any, *windows: EncoderWindow) -> PipelineRunner:
    return PipelineRunner(pipe, SCHEDULE, {"tuned": replace_encoders(pipe, {"text_encoder": tuned})}, windows)


def test_a_window_over_all_steps_equals_the_other_encoder(pipe: Any, tuned: Any, noise: torch.Tensor) -> None:
    whole = runner_with(pipe, tuned, EncoderWindow({"tuned": 1.0})).generate(TEXTS, noise)
    other = PipelineRunner(replace_encoders(pipe, {"text_encoder": tuned}), SCHEDULE)
    assert (whole == other.generate(TEXTS, noise)).all()
    assert (whole != PipelineRunner(pipe, SCHEDULE).generate(TEXTS, noise)).any()


def test_a_window_over_the_last_steps_equals_a_rollout_in_two_parts(
    pipe: Any, tuned: Any, noise: torch.Tensor
) -> None:
    shown = runner_with(pipe, tuned, EncoderWindow({"tuned": 1.0}, 2)).generate(TEXTS, noise)
    scheduler = with_timesteps(pipe.scheduler, 5)
    first, last = Rollout(Denoiser(pipe.unet, 3.0), scheduler, scheduler.timesteps).split(3)
    with torch.no_grad():
        z = first.run(noise * scheduler.init_noise_sigma, Conditioning.encode(pipe, TEXTS, guided=True))
        other = replace_encoders(pipe, {"text_encoder": tuned})
        z = last.run(z, Conditioning.encode(other, TEXTS, guided=True))
        mine = decode_latents(pipe.vae, z).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(mine, shown, atol=2e-6)


def test_a_unet_that_takes_the_guidance_scale_is_not_guided_twice(
    pipe: Any, tuned: Any, noise: torch.Tensor
) -> None:
    """As those of latent consistency models, which diffusers calls without rows of the empty prompt."""
    unet = type(pipe.unet).from_config(pipe.unet.config, time_cond_proj_dim=8)
    distilled = type(pipe)(**pipe.components | {"unet": unet}, requires_safety_checker=False)
    distilled.set_progress_bar_config(disable=True)
    runner = runner_with(distilled, tuned, EncoderWindow({"tuned": 1.0}, 2))
    assert PipelineRunner(pipe, SCHEDULE).guided
    assert not runner.guided
    images = runner.generate(TEXTS, noise)
    assert np.isfinite(images).all()
    plain = PipelineRunner(distilled, SCHEDULE).generate(TEXTS, noise)
    assert (images != plain).any()
    # Training gives it the scale as the pipeline does.
    scheduler = with_timesteps(distilled.scheduler, SCHEDULE.steps)
    denoiser = Denoiser.of_pipeline(distilled, SCHEDULE.guidance, runner.size)
    start = noise * scheduler.init_noise_sigma
    with torch.no_grad():
        z = Rollout(denoiser, scheduler, scheduler.timesteps).run(
            start, Conditioning.encode(distilled, TEXTS, guided=False)
        )
        mine = decode_latents(distilled.vae, z).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(mine, plain, atol=2e-6)


def test_mixes_are_weighted_sums_of_embeddings(pipe: Any, tuned: Any) -> None:
    window = EncoderWindow({"tuned": 0.7, ORIGINAL: 0.3}, 3)
    result = runner_with(pipe, tuned, window).conditionings(TEXTS)
    own = Conditioning.encode(pipe, TEXTS, guided=True)
    other = Conditioning.encode(replace_encoders(pipe, {"text_encoder": tuned}), TEXTS, guided=True)
    assert sorted(result) == [3, 5]
    torch.testing.assert_close(result[3].embeds, 0.7 * other.embeds + 0.3 * own.embeds)
    assert torch.equal(result[5].embeds, own.embeds)
    assert torch.equal(Conditioning.mix({"a": own, "b": other}, {"a": 1.0, "b": 0.0}).embeds, own.embeds)


def test_later_windows_take_over(pipe: Any, tuned: Any, noise: torch.Tensor) -> None:
    half, full = EncoderWindow({"tuned": 0.5, ORIGINAL: 0.5}, 4), EncoderWindow({"tuned": 1.0}, 1)
    assert sorted(runner_with(pipe, tuned, full, half).conditionings(TEXTS)) == [1, 4, 5]
    both = runner_with(pipe, tuned, half, full).generate(TEXTS, noise)
    assert (both == runner_with(pipe, tuned, full, half).generate(TEXTS, noise)).all()
    assert (both != runner_with(pipe, tuned, half).generate(TEXTS, noise)).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("last", [0, 2, 5])
def test_switch_encoder_works_with_an_unmodified_pipeline(
    tiny_pipeline: Path, tuned: Any, sampler: str, last: int
) -> None:
    import diffusers
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    theirs.scheduler = getattr(diffusers, SAMPLERS[sampler]).from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    arguments = switch_encoder(theirs, TEXTS, tuned_steps=last, steps=5, guidance=3.0, text_encoder=tuned)
    noise, seeds = initial_latents([1, 2], (4, 8, 8)), [1, 2]
    if Schedule(sampler, 5, 3.0).noisy:
        arguments["generator"] = _generators(seeds)
    image = theirs(
        latents=noise, num_inference_steps=5, guidance_scale=3.0, output_type="np", **arguments
    ).images

    pipe = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler=sampler)
    windows = (EncoderWindow({"tuned": 1.0}, last),) if last else ()
    others = {"tuned": replace_encoders(pipe, {"text_encoder": tuned})}
    ours = PipelineRunner(pipe, Schedule(sampler, 5, 3.0), others, windows).generate(TEXTS, noise, seeds)
    assert (image == ours).all()


def test_more_tuned_steps_than_steps_are_refused(pipe: Any, tuned: Any) -> None:
    with pytest.raises(ValueError, match="tuned_steps = 6; expected 0 to steps = 5"):
        switch_encoder(pipe, TEXTS, tuned_steps=6, steps=5, guidance=3.0, text_encoder=tuned)


def test_images_without_guidance_are_the_pipelines(pipe: Any, tuned: Any, noise: torch.Tensor) -> None:
    plain = PipelineRunner(pipe, Schedule("ddim", 2, 1.0))
    image = plain.generate(TEXTS, noise)
    theirs = pipe(
        prompt=TEXTS, latents=noise, num_inference_steps=2, guidance_scale=1.0, output_type="np"
    ).images
    assert (image == theirs).all()


def test_step_noise_depends_on_the_seed_of_the_image_only(pipe: Any) -> None:
    shape = PipelineRunner(pipe, SCHEDULE).latent_shape
    noisy = PipelineRunner(pipe, Schedule("ddim", SCHEDULE.steps, SCHEDULE.guidance, eta=1.0))
    noise = initial_latents([1, 2], shape)
    both = noisy.generate(TEXTS[:2], noise, [1, 2])
    assert (both == noisy.generate(TEXTS[:2], noise, [1, 2])).all()
    alone = noisy.generate(TEXTS[1:2], noise[1:], [2])
    assert abs(both[1] - alone[0]).max() < 1e-4  # whatever else is in the batch
    assert abs(both - noisy.generate(TEXTS[:2], noise, [1, 3])).reshape(2, -1).max(axis=1).tolist()[0] == 0
    assert (both[1] != noisy.generate(TEXTS[:2], noise, [1, 3])[1]).any()
    assert (both != PipelineRunner(pipe, SCHEDULE).generate(TEXTS[:2], noise)).any()
    with pytest.raises(ValueError, match="give one seed per image"):
        noisy.generate(TEXTS[:2], noise)
    with pytest.raises(ValueError, match='only "ddim" supports eta'):
        Schedule("euler", 2, 3.0, eta=1.0)
