"""The UNet and its text encoder: noise schedule, initial weights, resuming."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rewards.world.training import clip
from rewards.world.training.tokenizer import CaptionTokenizer, _caption_corpus, _write_tokenizer
from textcraftor.micro.training import unet, vae

PLANS = [replace(plan, steps=4, batch=4, warmup=1, save_every_s=0.0) for plan in (unet.PLAN, unet.LOOKS_PLAN)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a build with a tokenizer, patch latents and an untrained world-clip-read."""
    folder = tmp_path_factory.mktemp("world")
    _write_tokenizer(folder / "tokenizer", _caption_corpus(200), merges=50)
    torch.manual_seed(3)
    words = len(CaptionTokenizer(folder / "tokenizer"))
    clip.save_clip(clip._build_clip(words), words, folder / "world-clip-read")
    vae.patch_latents(folder)
    return folder


def test_the_noise_schedule_is_stable_diffusions() -> None:
    noise = unet.noise_scheduler()
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000)
    expected = torch.cumprod(1 - roots**2, dim=0)
    torch.testing.assert_close(noise.alphas_cumprod, expected)
    assert noise.final_alpha_cumprod == noise.alphas_cumprod[0]  # set_alpha_to_one is false
    noise.set_timesteps(25)
    assert noise.timesteps[0] == 999
    assert noise.config.prediction_type == "v_prediction"


def test_random_timesteps_favour_high_noise_and_cover_the_range() -> None:
    torch.manual_seed(0)
    sampled = unet._random_timesteps(20_000)
    assert sampled.min() >= 0
    assert sampled.max() <= 999
    assert 0.7 < (sampled >= 500).float().mean() < 0.85
    assert (sampled < 100).any()
    assert (sampled > 950).any()


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_weights_load_with_and_without_the_prefix_of_some_versions(world: Path, prefix: str) -> None:
    tokens = CaptionTokenizer(world / "tokenizer")
    source, target = (unet._ConditionedUNet(tokens).text_encoder for _ in range(2))
    plain = {key.removeprefix("text_model."): value for key, value in source.state_dict().items()}
    unet._load_text_weights(target, {f"text_model.{key}": value for key, value in plain.items()})
    wrapped = torch.nn.ModuleDict({"text_model": target}) if prefix else target
    for key, value in wrapped.state_dict().items():
        assert torch.equal(value, plain[key.removeprefix("text_model.")])


def test_the_text_encoder_starts_as_world_clips_text_tower(world: Path) -> None:
    model = unet.train_unet(world, *(replace(plan, name="none", steps=0) for plan in PLANS))
    tower = load_file(world / "world-clip-read" / clip.WEIGHTS)
    embeddings = model.text_encoder.get_input_embeddings().weight
    torch.testing.assert_close(embeddings, tower["token_embedding.weight"].float())


def test_the_plan_for_independent_looks_trains_the_unet_alone(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world, tmp_path / "world")
    first = unet.train_unet(folder, PLANS[0], replace(PLANS[1], steps=0)).state_dict()
    both = unet.train_unet(folder, *PLANS).state_dict()
    changed = {name.split(".")[0] for name, value in both.items() if not torch.equal(value, first[name])}
    assert changed == {"unet"}
    loaded = unet.load_trained_unet(folder).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in both.items())


def test_resuming_gives_identical_weights(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = unet.train_unet(shutil.copytree(world, tmp_path / "whole"), *PLANS)
    interrupted = shutil.copytree(world, tmp_path / "interrupted")
    random_timesteps, calls = unet._random_timesteps, iter(range(10))

    def interrupt(count: int) -> torch.Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return random_timesteps(count)

    monkeypatch.setattr(unet, "_random_timesteps", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unet.train_unet(interrupted, *PLANS)
    monkeypatch.setattr(unet, "_random_timesteps", random_timesteps)
    resumed = unet.train_unet(interrupted, *PLANS)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
