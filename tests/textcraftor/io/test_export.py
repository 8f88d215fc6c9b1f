"""Exported weights in other tools: current diffusers and that of 2024, adapters, single files."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from rewards.verification.official.environment import _official_python
from tcbench.errors import ConfigError
from textcraftor.config import TrainableSettings
from textcraftor.diffusion.conditioning import replace_encoders
from textcraftor.diffusion.pipeline import MICRO, Source, load_pipeline
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.schedule import Schedule
from textcraftor.io.export import ADAPTERS, export_encoder
from textcraftor.tuned import TunedPipeline

SCHEDULE = Schedule("ddim", 3, 3.0)
TEXTS = ["a cat", "a dog"]

OLD = """
import json, sys
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
pipe.set_progress_bar_config(disable=True)
latents = torch.from_numpy(np.load(sys.argv[2]))
images = pipe(json.loads(sys.argv[3]), latents=latents, num_inference_steps=3, guidance_scale=3.0,
              output_type="np").images
np.save(sys.argv[4], images)
"""


@pytest.fixture
def pipe(tiny_pipeline: Path) -> Any:
    return load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler="ddim")


def tune(pipe: Any, folder: Path, change: float = 0.3, **settings: Any) -> TunedPipeline:
    """As if it had been trained: every trained weight is moved, and the result saved."""
    tuned = TunedPipeline(pipe, TrainableSettings(**settings), guided=True)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tuned.trained_parameters().values():
            parameter.add_(change * torch.randn(parameter.shape, generator=generator))
    tuned.save(folder, tuned.trained_parameters())
    return tuned


def sampled(pipe: Any) -> np.ndarray:
    runner = PipelineRunner(pipe, SCHEDULE)
    return runner.generate(TEXTS, initial_latents([1, 2], runner.latent_shape))


def test_an_unmodified_pipeline_generates_the_same(pipe: Any, tiny_pipeline: Path, tmp_path: Path) -> None:
    tuned = tune(pipe, tmp_path / "tuned")
    export_encoder(tmp_path / "tuned", tmp_path / "out", "diffusers", Source(str(tiny_pipeline)))
    other = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    other.set_progress_bar_config(disable=True)
    image = other(
        TEXTS, latents=initial_latents([1, 2], (4, 8, 8)), num_inference_steps=3, guidance_scale=3.0,
        output_type="np",
    ).images  # fmt: skip
    np.testing.assert_allclose(image, sampled(tuned.pipeline), atol=1e-5)
    assert np.abs(image - sampled(pipe)).max() > 1e-2


def test_unused_components_are_not_exported(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Stable Diffusion 1.5's folder names a safety checker, and may hold half-precision files alone."""
    base = Path(shutil.copytree(tiny_pipeline, tmp_path / "base"))
    index = base / "model_index.json"
    entries = json.loads(index.read_text())
    entries["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    entries["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    entries["requires_safety_checker"] = True
    index.write_text(json.dumps(entries))
    for file in list(base.glob("*/*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    tune(load_pipeline(base, device="cpu", dtype="float32", sampler="ddim"), tmp_path / "tuned")
    export_encoder(tmp_path / "tuned", tmp_path / "out", "diffusers", Source(str(base)))
    other = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert other.safety_checker is None
    assert other.unet is not None


def test_diffusers_of_2024_generates_the_same(tmp_path: Path) -> None:
    """Under transformers 4.46 and diffusers 0.30, in whose environment the official rewards run."""
    micro = load_pipeline(MICRO, device="cpu", dtype="float32", sampler="ddim")
    tuned = tune(micro, tmp_path / "tuned", 0.02)
    export_encoder(tmp_path / "tuned", tmp_path / "out", "diffusers", Source(str(MICRO)))
    noise = initial_latents([1, 2], PipelineRunner(micro, SCHEDULE).latent_shape)
    np.save(tmp_path / "latents.npy", noise.numpy())
    command = [
        str(_official_python()), "-W", "ignore", "-c", OLD, str(tmp_path / "out"),
        str(tmp_path / "latents.npy"), json.dumps(TEXTS), str(tmp_path / "images.npy"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    images = np.load(tmp_path / "images.npy")
    np.testing.assert_allclose(images, sampled(tuned.pipeline), atol=1e-3)
    assert np.abs(images - sampled(micro)).max() > 0.1


@pytest.mark.parametrize("parts", [("text_encoder",), ("text_encoder", "unet")])
def test_adapters_are_loaded_by_diffusers(
    pipe: Any, tiny_pipeline: Path, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    tuned = tune(pipe, tmp_path / "tuned", lora_rank=2, parts=parts)
    expected = sampled(tuned.pipeline)
    export_encoder(tmp_path / "tuned", tmp_path / "lora", "lora", Source("tiny"))
    other = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler="ddim")
    plain = sampled(other)
    other.load_lora_weights(tmp_path / "lora", weight_name=ADAPTERS)
    np.testing.assert_allclose(sampled(other), expected, atol=1e-5)
    assert np.abs(plain - expected).max() > 1e-2


def test_merged_adapters_equal_the_adapted_encoder(pipe: Any, tiny_pipeline: Path, tmp_path: Path) -> None:
    tuned = tune(pipe, tmp_path / "tuned", lora_rank=2)
    merged = type(pipe.text_encoder).from_pretrained(tmp_path / "tuned" / "text_encoder")
    plain = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler="ddim")
    image = sampled(replace_encoders(plain, {"text_encoder": merged}))
    np.testing.assert_allclose(image, sampled(tuned.pipeline), atol=1e-5)
    assert tuned.trained_parameters().keys() == {
        k for k, p in tuned.named_parameters() if "lora" in k and p.requires_grad
    }


def test_a_single_file_has_the_keys_that_loaders_expect(pipe: Any, tmp_path: Path) -> None:
    tuned = tune(pipe, tmp_path / "tuned")
    export_encoder(tmp_path / "tuned", tmp_path / "single", "single-file", Source("tiny"))
    weights = load_file(tmp_path / "single" / "text_encoder.safetensors")
    assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in weights
    assert "text_model.embeddings.token_embedding.weight" in weights
    assert all(key.startswith("text_model.") for key in weights)
    own = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in
           tuned.parts["text_encoder"].state_dict().items()}  # fmt: skip
    assert all(torch.equal(value, own[key].half()) for key, value in weights.items())


def test_existing_files_are_not_overwritten(pipe: Any, tiny_pipeline: Path, tmp_path: Path) -> None:
    tune(pipe, tmp_path / "tuned")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    for write in (
        lambda out: export_encoder(tmp_path / "tuned", out, "diffusers", Source(str(tiny_pipeline))),
        lambda out: export_encoder(tmp_path / "tuned", out, "single-file", Source("tiny")),
    ):
        with pytest.raises(ConfigError, match="exists already"):
            write(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no adapters of the base.*--to diffusers"):
        export_encoder(tmp_path / "tuned", tmp_path / "lora", "lora", Source("tiny"))


def test_saving_does_not_change_the_trained_model(pipe: Any, tmp_path: Path) -> None:
    tuned = TunedPipeline(pipe, TrainableSettings(lora_rank=2), guided=True)
    before = copy.deepcopy(tuned.state_dict())
    tuned.save(tmp_path / "tuned", tuned.trained_parameters())
    after = tuned.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
