"""The shipped pipeline: diffusers loads it, its images fit prompts, and it is small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

import rewards
from benchmarks.systems import SYSTEMS
from rewards.world.prompts import PAIR_CATEGORIES, world_prompts
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.pipeline import MICRO
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.schedule import Schedule
from textcraftor.micro.training.measure import PromptImages, _sample_prompts

MEGABYTES = 32
GUIDANCE = SYSTEMS["micro"].schedule.guidance


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline(MICRO, device="cpu", dtype="float32", sampler="ddim")


def test_all_shipped_weights_are_small() -> None:
    weights = Path(rewards.__file__).parent / "world" / "weights"
    sizes = [file.stat().st_size for folder in (weights, MICRO) for file in folder.rglob("*")]
    assert 5e6 < sum(sizes) < MEGABYTES * 1e6


def test_no_shipped_file_names_an_absolute_path() -> None:
    weights = Path(rewards.__file__).parent / "world" / "weights"
    configs = [file for folder in (weights, MICRO) for file in folder.rglob("*.json")]
    assert len(configs) > 5
    for file in configs:
        config = json.loads(file.read_text(encoding="utf-8"))
        paths = [value for value in config.values() if isinstance(value, str) and value.startswith("/")]
        # a vocabulary has tokens such as "/" as keys only
        assert not paths, file


def test_plain_diffusers_generates_the_same_images(pipe: Any) -> None:
    schedule, text = Schedule("ddim", 5, GUIDANCE), "a large red star on a white background"
    noise = initial_latents([3], PipelineRunner(pipe, schedule).latent_shape)
    plain = StableDiffusionPipeline.from_pretrained(MICRO)
    plain.set_progress_bar_config(disable=True)
    there = plain(text, latents=noise, num_inference_steps=5, guidance_scale=GUIDANCE, output_type="np")
    np.testing.assert_array_equal(PipelineRunner(pipe, schedule).generate([text], noise), there.images)


def test_the_text_encoder_has_keys_that_older_versions_read() -> None:
    with safe_open(MICRO / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())  # noqa: SIM118 - safe_open is no mapping


@pytest.mark.parametrize("text", ["", "naïve café 😀 漢字", "x" * 500, "a RED circle\n\tplease"])
def test_any_text_can_be_sampled(pipe: Any, text: str) -> None:
    schedule = Schedule("ddim", 2, GUIDANCE)
    image = PipelineRunner(pipe, schedule).generate(
        [text], initial_latents([1], PipelineRunner(pipe, schedule).latent_shape)
    )
    assert np.isfinite(image).all()


def test_images_fit_their_prompts() -> None:
    """The bound is far below the report's value: it catches broken weights, not small changes."""
    single = [prompt for prompt in world_prompts("validation") if prompt.category not in PAIR_CATEGORIES][:40]
    sampled = _sample_prompts(MICRO, single, GUIDANCE)
    assert sampled.true_claims()["all"] > 0.9
    shuffled = PromptImages(single[1:] + single[:1], sampled.images)
    assert shuffled.true_claims()["all"] < sampled.true_claims()["all"] - 0.2
