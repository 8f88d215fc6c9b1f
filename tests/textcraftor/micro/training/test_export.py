"""The shipped layout: keys that transformers 4 and 5 load, and a folder that diffusers samples from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModel

from rewards.world.training.tokenizer import CaptionTokenizer, _caption_corpus, _write_tokenizer
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.schedule import Schedule
from textcraftor.io.export import save_text_encoder
from textcraftor.micro.training import unet, vae
from textcraftor.micro.training.export import write_pipeline

PROMPT = "a small red circle in the centre"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "tokenizer"
    _write_tokenizer(folder, _caption_corpus(200), merges=50)
    return folder


def random_parts(tokenizer: Path) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    model = unet._ConditionedUNet(CaptionTokenizer(tokenizer))
    return model.text_encoder, model.unet


def keys_of(folder: Path) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return list(file.keys())


def test_a_saved_text_encoder_loads_completely(tokenizer: Path, tmp_path: Path) -> None:
    tokens = CaptionTokenizer(tokenizer)
    torch.manual_seed(0)
    written = unet._ConditionedUNet(tokens).text_encoder.eval()
    save_text_encoder(written, tmp_path, half=True)
    assert all(key.startswith("text_model.") for key in keys_of(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("float32", "float32")
    read, report = CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert read.dtype == torch.float32
    with torch.inference_mode():
        before, after = (model(tokens([PROMPT])).last_hidden_state for model in (written, read))
    torch.testing.assert_close(after, before, rtol=0, atol=5e-3)  # float16 on disk


def test_no_file_names_a_path_of_this_machine(tokenizer: Path, tmp_path: Path) -> None:
    vae._build_vae(0.5).save_pretrained(tmp_path / "trained")
    loaded = AutoencoderKL.from_pretrained(tmp_path / "trained")
    assert Path(loaded.config["_name_or_path"]) == tmp_path / "trained"  # as when a build is installed
    parts = *random_parts(tokenizer), loaded
    write_pipeline(tmp_path / "pipeline", tokenizer, *parts)
    for file in (tmp_path / "pipeline").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file


def test_plain_diffusers_generates_the_same_images(tokenizer: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = *random_parts(tokenizer), vae._build_vae(0.5)
    write_pipeline(tmp_path / "pipeline", tokenizer, *parts)
    schedule = Schedule("ddim", 3, 3.0)
    pipe = load_pipeline(tmp_path / "pipeline", device="cpu", dtype="float32", sampler="ddim")
    noise = initial_latents([5], PipelineRunner(pipe, schedule).latent_shape)
    here = PipelineRunner(pipe, schedule).generate([PROMPT], noise)
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    plain.set_progress_bar_config(disable=True)
    there = plain(PROMPT, latents=noise, num_inference_steps=3, guidance_scale=3.0, output_type="np").images
    assert here.shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(here, there)
