"""Exported weights in other tools: current diffusers and that of 2024, adapters, single files."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from rewards.verification.official.environment import _official_python
from tcbench.errors import ConfigError
from textcraftor.diffusion.conditioning import replace_encoders
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.pipeline import MICRO, Source
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.schedule import Schedule
from textcraftor.io.export import ADAPTERS, export_encoder, save_text_encoder
from textcraftor.settings import TrainableSettings
from textcraftor.tuned import TunedPipeline

SCHEDULE = Schedule("ddim", 3, 3.0)
TEXTS = ["a cat", "a dog"]

OLD = """
import json, sys
import numpy as np
import torch
from diffusers import DiffusionPipeline
for folder, adapters, latents, texts, out in json.loads(sys.argv[1]):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if adapters:
        pipe.load_lora_weights(adapters, weight_name="pytorch_lora_weights.safetensors")
    images = pipe(texts, latents=torch.from_numpy(np.load(latents)), num_inference_steps=3,
                  guidance_scale=3.0, output_type="np").images
    np.save(out, images)
"""

# How other tools name the layers of a text encoder that adapters change. Sources: ComfyUI, comfy/lora.py,
# `model_lora_keys_clip`, and comfy/weight_adapter/lora.py for the matrices; AUTOMATIC1111,
# extensions-builtin/Lora/networks.py, `convert_diffusers_name_to_compvis` and `load_network`; the names are
# those of kohya's trainer. Keys of a UNet are read under kohya's names by both.
LAYER = r"encoder{0}layers{0}\d+{0}(self_attn{0}(q|k|v|out)_proj|mlp{0}fc[12])"
UNET_LAYER = (
    r"(down_blocks_\d+|mid_block|up_blocks_\d+)_attentions_\d+_transformer_blocks_\d+_attn[12]"
    r"_to_(q|k|v|out_0)"
)
COMFYUI = {
    "sd": rf"text_encoder\.text_model\.{LAYER.format('[.]')}\.lora_linear_layer\.(up|down)\.weight",
    "sdxl": rf"text_encoder(_2)?\.text_model\.{LAYER.format('[.]')}\.lora_linear_layer\.(up|down)\.weight",
}
KOHYA = {
    "sd": rf"(lora_te_text_model_{LAYER.format('_')}|lora_unet_{UNET_LAYER})\.(lora_(up|down)\.weight|alpha)",
    "sdxl": rf"(lora_te[12]_text_model_{LAYER.format('_')}|lora_unet_{UNET_LAYER})"
    r"\.(lora_(up|down)\.weight|alpha)",
}


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


def of_2024(tmp_path: Path, jobs: dict[str, tuple[Path, Path | None, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Images of pipelines under transformers 4.46, diffusers 0.30 and peft 0.13, by the name of the job."""
    for name, (_, _, latents) in jobs.items():
        np.save(tmp_path / f"{name}-latents.npy", latents.numpy())
    described = [
        (
            str(folder),
            str(adapters or ""),
            str(tmp_path / f"{n}-latents.npy"),
            TEXTS,
            str(tmp_path / f"{n}.npy"),
        )
        for n, (folder, adapters, _) in jobs.items()
    ]
    command = [str(_official_python()), "-W", "ignore", "-c", OLD, json.dumps(described)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: np.load(tmp_path / f"{name}.npy") for name in jobs}


def test_diffusers_of_2024_generates_the_same(tiny_sdxl: Path, tmp_path: Path) -> None:
    """In the environment of the official rewards: a whole pipeline, and adapters on SD's and SDXL's bases."""
    micro = load_pipeline(MICRO, device="cpu", dtype="float32", sampler="ddim")
    noise = initial_latents([1, 2], PipelineRunner(micro, SCHEDULE).latent_shape)
    tuned = tune(micro, tmp_path / "tuned", 0.02)
    export_encoder(tmp_path / "tuned", tmp_path / "out", "diffusers", Source(str(MICRO)))
    adapted = tune(micro, tmp_path / "adapted", 0.1, lora_rank=2)
    export_encoder(tmp_path / "adapted", tmp_path / "lora", "lora", Source(str(MICRO)))
    sdxl = load_pipeline(tiny_sdxl, device="cpu", dtype="float32", sampler="ddim")
    both = tune(sdxl, tmp_path / "both", 0.3, lora_rank=2, parts=("text_encoder", "text_encoder_2"))
    export_encoder(tmp_path / "both", tmp_path / "lora-xl", "lora", Source(str(tiny_sdxl)))
    base = Path(shutil.copytree(tiny_sdxl, tmp_path / "base"))
    # transformers 4 cannot read what transformers 5 saved
    for name in ("text_encoder", "text_encoder_2"):
        save_text_encoder(getattr(sdxl, name), base / name)
    for name in ("tokenizer", "tokenizer_2"):
        vocabulary = json.loads((base / name / "tokenizer.json").read_text(encoding="utf-8"))["model"][
            "vocab"
        ]
        (base / name / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (base / name / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    images = of_2024(
        tmp_path,
        {
            "whole": (tmp_path / "out", None, noise),
            "adapters": (MICRO, tmp_path / "lora", noise),
            "sdxl": (base, tmp_path / "lora-xl", initial_latents([1, 2], (4, 8, 8))),
        },
    )
    expected = {
        "whole": (micro, tuned.pipeline),
        "adapters": (micro, adapted.pipeline),
        "sdxl": (sdxl, both.pipeline),
    }
    for name, (plain, pipeline) in expected.items():
        np.testing.assert_allclose(images[name], sampled(pipeline), atol=1e-3)
        assert np.abs(images[name] - sampled(plain)).max() > 0.02


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


@pytest.mark.parametrize("base", ["sd", "sdxl"])
def test_other_tools_know_every_key_of_adapters(
    base: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue("tiny_pipeline" if base == "sd" else "tiny_sdxl")
    pipe = load_pipeline(folder, device="cpu", dtype="float32", sampler="ddim")
    encoders = ("text_encoder",) if base == "sd" else ("text_encoder", "text_encoder_2")
    tuned = tune(pipe, tmp_path / "tuned", lora_rank=2, parts=(*encoders, "unet"))
    expected = sampled(tuned.pipeline)
    layers = sum("lora_A" in name for name in tuned.trained_parameters())
    for file_format, size, known in (("lora", 2, COMFYUI[base]), ("kohya", 3, KOHYA[base])):
        export_encoder(tmp_path / "tuned", tmp_path / file_format, file_format, Source("tiny"))
        (file,) = (tmp_path / file_format).iterdir()
        keys = load_file(file).keys()
        assert len(keys) == size * layers
        assert [key for key in keys if not key.startswith("unet.") and not re.fullmatch(known, key)] == []
        other = load_pipeline(folder, device="cpu", dtype="float32", sampler="ddim")
        other.load_lora_weights(file.parent, weight_name=file.name)
        np.testing.assert_allclose(sampled(other), expected, atol=1e-5)


def test_adapters_of_an_earlier_version_are_exported_under_known_keys(pipe: Any, tmp_path: Path) -> None:
    tune(pipe, tmp_path / "tuned", lora_rank=2)
    stored = load_file(tmp_path / "tuned" / ADAPTERS)
    save_file({k.replace(".text_model.", "."): v for k, v in stored.items()}, tmp_path / "tuned" / ADAPTERS)
    export_encoder(tmp_path / "tuned", tmp_path / "lora", "lora", Source("tiny"))
    exported = load_file(tmp_path / "lora" / ADAPTERS)
    assert all(re.fullmatch(COMFYUI["sd"], key) for key in exported)
    assert all(torch.equal(exported[key], value) for key, value in stored.items())


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
