"""SDXL: two text encoders, pooled embeddings and sizes work like one text encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from textcraftor.algorithms.latent_scores import decode_latents
from textcraftor.config import TrainConfig
from textcraftor.diffusion.conditioning import Conditioning, replace_encoders
from textcraftor.diffusion.loading import load_parts, load_pipeline
from textcraftor.diffusion.pipeline import Source
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import EncoderWindow, PipelineRunner, switch_encoder
from textcraftor.diffusion.sampling import Denoiser, Rollout, with_timesteps
from textcraftor.diffusion.schedule import Schedule
from textcraftor.io.checkpoint import VALIDATION, TrainFolder
from textcraftor.io.export import export_encoder
from textcraftor.training import train

SCHEDULE = Schedule("ddim", 4, 3.0)
TEXTS = ["a cat", "a dog"]


@pytest.fixture
def pipe(tiny_sdxl: Path) -> Any:
    return load_pipeline(tiny_sdxl, device="cpu", dtype="float32", sampler="ddim")


def test_a_rollout_ends_with_the_pipelines_own_image(pipe: Any) -> None:
    runner = PipelineRunner(pipe, SCHEDULE)
    noise = initial_latents([1, 2], runner.latent_shape)
    theirs = pipe(TEXTS, latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="np").images
    assert (runner.generate(TEXTS, noise) == theirs).all()
    height, width = runner.size
    ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
    scheduler = with_timesteps(pipe.scheduler, 4)
    steps = Rollout(Denoiser(pipe.unet, 3.0, ids), scheduler, scheduler.timesteps)
    with torch.no_grad():
        z = steps.run(noise * scheduler.init_noise_sigma, Conditioning.encode(pipe, TEXTS, guided=True))
        mine = decode_latents(pipe.vae, z).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(mine, theirs, atol=2e-6)


def test_both_encoders_switch_in_an_unmodified_pipeline(pipe: Any, tiny_sdxl: Path) -> None:
    others = {name: copy.deepcopy(getattr(pipe, name)) for name in ("text_encoder", "text_encoder_2")}
    with torch.no_grad():
        for parameter in (p for other in others.values() for p in other.parameters()):
            parameter.mul_(1.3)
    theirs = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    kwargs = switch_encoder(theirs, TEXTS, tuned_steps=2, steps=4, guidance=3.0, **others)
    noise = initial_latents([1, 2], (4, 8, 8))
    image = theirs(
        latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="np", **kwargs
    ).images
    tuned = {"tuned": replace_encoders(pipe, others)}
    ours = PipelineRunner(pipe, SCHEDULE, tuned, (EncoderWindow({"tuned": 1.0}, 2),)).generate(TEXTS, noise)
    assert (image == ours).all()
    assert (ours != PipelineRunner(pipe, SCHEDULE).generate(TEXTS, noise)).any()


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"algorithm": "conditioning"}], ids=str)
def test_both_encoders_are_trained_and_exported(
    tiny_sdxl: Path, tmp_path: Path, changes: dict[str, Any], small_config: Callable[..., TrainConfig]
) -> None:
    (tmp_path / "toys.py").write_text(
        "from rewards import Reward, RewardInfo, register\n"
        f'@register(RewardInfo("xl-red-{len(str(changes))}", uses_prompt=False))\n'
        "class Red(Reward):\n"
        "    def _score(self, pixels, prompts):\n"
        "        return pixels[:, 0].mean((1, 2)) - pixels[:, 1:].mean((1, 2, 3))\n"
    )
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na hen\n")
    config = small_config(
        tiny_sdxl,
        mix=f"{tmp_path / 'toys.py'}:Red=1",
        prompts=str(tmp_path / "prompts.txt"),
        validation_prompts=str(tmp_path / "prompts.txt"),
        parts=("text_encoder", "text_encoder_2"),
        steps=4,
        tuned_steps=2,
        eval_tuned_steps=4,
        guidance=3.0,
        batch=3,
        updates=6,
        lr=3e-3,
        every=6,
        **changes,
    )
    train(config, tmp_path / "out", device="cpu")
    last = TrainFolder(tmp_path / "out").rows(VALIDATION)[-1]
    assert last["changes"]["trained"][0] > 0
    best = tmp_path / "out" / "best"
    for name in config.trainable.parts:
        before = load_file(tiny_sdxl / name / "model.safetensors")
        after = load_file(best / name / "model.safetensors")
        key = "encoder.layers.0.self_attn.q_proj.weight"
        own = next(value for stored, value in before.items() if stored.endswith(key))
        assert not torch.equal(after[f"text_model.{key}"], own)
    export_encoder(best, tmp_path / "exported", "diffusers", Source(str(tiny_sdxl)))
    theirs = StableDiffusionXLPipeline.from_pretrained(tmp_path / "exported", add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    noise = initial_latents([1, 2], (4, 8, 8))
    image = theirs(TEXTS, latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="np").images
    pipe = load_pipeline(tiny_sdxl, device="cpu", dtype="float32", sampler="ddim")
    others = {"best": replace_encoders(pipe, load_parts(pipe, best))}
    whole = PipelineRunner(pipe, SCHEDULE, others, (EncoderWindow({"best": 1.0}),))
    np.testing.assert_allclose(image, whole.generate(TEXTS, noise), atol=1e-5)
