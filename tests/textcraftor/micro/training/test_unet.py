"""The denoiser: Stable Diffusion's noise schedule, CLIP's text tower as a start, training that resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rewards.world.training import clip
from rewards.world.training.tokenizer import caption_corpus, write_tokenizer
from textcraftor.micro.training import unet, vae


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the stage needs: tokenizer, patches and an untrained world-clip."""
    folder = tmp_path_factory.mktemp("world")
    write_tokenizer(folder / "tokenizer", caption_corpus(200), merges=50)
    torch.manual_seed(3)
    words = len(clip.Tokens(folder / "tokenizer"))
    clip.save(clip.build(words), words, folder / "world-clip")
    vae.patches(folder)
    return folder


def test_noise_follows_stable_diffusions_schedule() -> None:
    noise = unet.scheduler()
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000)
    expected = torch.cumprod(1 - roots**2, dim=0)
    torch.testing.assert_close(noise.alphas_cumprod, expected)
    assert noise.final_alpha_cumprod == noise.alphas_cumprod[0]  # set_alpha_to_one is false
    noise.set_timesteps(25)
    assert noise.timesteps[0] == 999
    assert noise.config.prediction_type == "v_prediction"


def test_timesteps_favour_high_noise_and_reach_everywhere() -> None:
    torch.manual_seed(0)
    drawn = unet.timesteps(20_000)
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    assert 0.7 < (drawn >= 500).float().mean() < 0.85
    assert (drawn < 100).any()
    assert (drawn > 950).any()


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_weights_load_whether_or_not_a_version_has_the_prefix(world: Path, prefix: str) -> None:
    tokens = clip.Tokens(world / "tokenizer")
    source, target = unet.build_text_encoder(tokens), unet.build_text_encoder(tokens)
    plain = {key.removeprefix("text_model."): value for key, value in source.state_dict().items()}
    unet.load_prefixed(target, {f"text_model.{key}": value for key, value in plain.items()})
    wrapped = torch.nn.ModuleDict({"text_model": target}) if prefix else target
    for key, value in wrapped.state_dict().items():
        assert torch.equal(value, plain[key.removeprefix("text_model.")])


def test_the_text_encoder_starts_as_world_clips_tower(world: Path) -> None:
    model = unet.train(world / "tokenizer", world / "world-clip", world / "none", replace(unet.PLAN, steps=0))
    tower = load_file(world / "world-clip" / clip.WEIGHTS)
    own = model.text_encoder.get_input_embeddings().weight
    torch.testing.assert_close(own, tower["token_embedding.weight"].float())


def test_training_that_was_cut_off_ends_as_if_it_was_not(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(unet.PLAN, steps=4, batch=4, warmup=1, save_every_s=0.0)
    arguments = world / "tokenizer", world / "world-clip"
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    for folder in ("whole", "cut"):
        (tmp_path / folder / "patches.safetensors").write_bytes((world / "patches.safetensors").read_bytes())
    whole = unet.train(*arguments, tmp_path / "whole", plan)
    draw, calls = unet.timesteps, iter(range(10))

    def cut_off(count: int) -> torch.Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return draw(count)

    monkeypatch.setattr(unet, "timesteps", cut_off)
    with pytest.raises(KeyboardInterrupt):
        unet.train(*arguments, tmp_path / "cut", plan)
    monkeypatch.setattr(unet, "timesteps", draw)
    resumed = unet.train(*arguments, tmp_path / "cut", plan)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
