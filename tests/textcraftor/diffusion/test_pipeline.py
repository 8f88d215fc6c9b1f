"""Pipelines: located or refused with a fix, hashed by content, sampled with given noise."""

from __future__ import annotations

import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from tcbench.errors import MissingFiles
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.pipeline import Source, component_sha256, pipeline_sha256
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.schedule import Schedule

TWO_STEPS = Schedule("ddim", steps=2, guidance=3.0)


@pytest.fixture
def copy(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "copy"))


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Path) -> Any:
    return load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler="ddim")


def test_a_local_folder_is_found(tiny_pipeline: Path) -> None:
    assert Source(str(tiny_pipeline)).find() == tiny_pipeline


def test_a_hub_id_is_taken_from_the_cache(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "snapshots").mkdir(parents=True)
    shutil.move(copy, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert Source("someone/tiny").find(fetch=False).name == "abc"


def test_a_component_that_a_repository_has_in_half_precision_only_is_downloaded(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_variant(copy / "unet", "fp16")
    as_variant(copy / "vae", "fp16", keep=True)
    cache = tmp_path / "cache"

    def download(name: str, *, allow_patterns: list[str], ignore_patterns: list[str], **options: Any) -> str:
        for file in copy.rglob("*"):
            path = file.relative_to(copy).as_posix()
            wanted = any(fnmatch(path, pattern) for pattern in allow_patterns)
            if file.is_file() and wanted and not any(fnmatch(path, pattern) for pattern in ignore_patterns):
                (cache / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, cache / path)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("rewards.weights.hub.offline_reason", lambda: None)
    assert Source("someone/something").find() == cache
    assert [file.name for file in (cache / "vae").glob("*.safetensors")] == [
        "diffusion_pytorch_model.safetensors"
    ]


def test_a_missing_pipeline_lists_its_download() -> None:
    source = Source("someone/nothing", "abc", ("unet/model.safetensors",), 2.5)
    with pytest.raises(
        MissingFiles, match=r"someone/nothing at revision abc \(unet/model.* 2.5 GB\).*--model FOLDER"
    ):
        source.find(fetch=False)


def test_an_invalid_hub_id_is_refused() -> None:
    with pytest.raises(MissingFiles, match="neither a diffusers folder nor a hub id"):
        Source("some/where/deep").find(fetch=False)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("model_index.json", "missing model_index.json"),
        ("unet", "missing component unet/"),
        ("vae/diffusion_pytorch_model.safetensors", "vae holds no weights"),
    ],
)
def test_an_incomplete_folder_names_the_missing_file(copy: Path, remove: str, message: str) -> None:
    target = copy / remove
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(MissingFiles, match=message):
        Source(str(copy)).find()


def test_the_hash_covers_content_and_not_the_path(tiny_pipeline: Path, copy: Path) -> None:
    (copy / "README.md").write_text("not part of the pipeline")
    assert pipeline_sha256(copy) == pipeline_sha256(tiny_pipeline)
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    assert pipeline_sha256(copy) != pipeline_sha256(tiny_pipeline)


def test_hidden_files_are_no_part_of_a_pipeline(tiny_pipeline: Path, copy: Path) -> None:
    for name in ("unet/._diffusion_pytorch_model.safetensors", "vae/._config.json"):  # as macOS leaves them
        (copy / name).write_bytes(b"resource fork")
    assert pipeline_sha256(copy) == pipeline_sha256(tiny_pipeline)


def test_the_hash_covers_every_weight(tiny_pipeline: Path, copy: Path) -> None:
    weights = copy / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert pipeline_sha256(copy) != pipeline_sha256(tiny_pipeline)


def test_images_equal_those_of_the_pipeline_itself(pipe: Any) -> None:
    latents = initial_latents([1, 2], PipelineRunner(pipe, TWO_STEPS).latent_shape)
    images = PipelineRunner(pipe, TWO_STEPS).generate(["a cat", "a dog"], latents)
    assert images.shape == (2, 16, 16, 3)
    assert images.dtype.name == "float32"
    assert 0 <= images.min() < images.max() <= 1
    direct = pipe(
        prompt=["a cat", "a dog"],
        latents=latents,
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="np",
    )
    assert (images == direct.images).all()


def test_images_depend_on_noise_and_prompt(pipe: Any) -> None:
    shape = PipelineRunner(pipe, TWO_STEPS).latent_shape
    base = PipelineRunner(pipe, TWO_STEPS).generate(["a cat"], initial_latents([1], shape))
    assert (base != PipelineRunner(pipe, TWO_STEPS).generate(["a cat"], initial_latents([2], shape))).any()
    assert (base != PipelineRunner(pipe, TWO_STEPS).generate(["zz ??"], initial_latents([1], shape))).any()


def test_sizes_follow_the_schedule(pipe: Any) -> None:
    assert PipelineRunner(pipe, TWO_STEPS).size == (16, 16)
    wide = Schedule("ddim", 2, 3.0, size=(16, 32))
    assert PipelineRunner(pipe, wide).latent_shape == (4, 8, 16)
    with pytest.raises(ValueError, match="size = 15x16; this pipeline needs multiples of 2"):
        _ = PipelineRunner(pipe, Schedule("ddim", 2, 3.0, size=(15, 16))).latent_shape


def test_truncated_prompts_are_reported_without_warnings(pipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert PipelineRunner(pipe, TWO_STEPS).truncated(["a cat", "a cat that is far too long for it"]) == [
        False,
        True,
    ]
    assert not caplog.records


def test_another_text_encoder_changes_the_images(tiny_pipeline: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_pipeline / "text_encoder", tmp_path / "encoder"))
    weights = {name: -tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    swapped = load_pipeline(
        tiny_pipeline, device="cpu", dtype="float32", sampler="ddim", replaced={"text_encoder": folder}
    )
    own = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler="ddim")
    tokens = torch.tensor([[188, 1, 2, 189]])
    assert not torch.equal(swapped.text_encoder(tokens)[0], own.text_encoder(tokens)[0])


def test_a_text_encoder_with_missing_weights_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_pipeline / "text_encoder", tmp_path / "encoder"))
    weights = {f"wrong.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights that the pipeline needs"):
        load_pipeline(
            tiny_pipeline, device="cpu", dtype="float32", sampler="ddim", replaced={"text_encoder": folder}
        )


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae"])
def test_a_pipeline_with_missing_weights_is_refused(copy: Path, component: str) -> None:
    """The libraries only log that, and sample with random weights."""
    from safetensors.torch import load_file, save_file

    (file,) = (copy / component).glob("*.safetensors")
    weights = load_file(file)
    weights.pop(next(name for name in weights if name.endswith("weight")))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(MissingFiles, match=f"{component} lacks weights that the pipeline needs"):
        load_pipeline(copy, device="cpu", dtype="float32", sampler="ddim")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++2m"])
def test_every_sampler_is_deterministic(tiny_pipeline: Path, sampler: str) -> None:
    pipe = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler=sampler)
    schedule = Schedule(sampler, 2, 3.0)
    latents = initial_latents([1], PipelineRunner(pipe, schedule).latent_shape)
    assert (
        PipelineRunner(pipe, schedule).generate(["a cat"], latents)
        == PipelineRunner(pipe, schedule).generate(["a cat"], latents)
    ).all()


def test_half_precision_files_are_used_if_there_are_no_others(copy: Path) -> None:
    for file in list(copy.glob("*/*.safetensors")):
        os.rename(file, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert Source(str(copy)).find() == copy
    pipe = load_pipeline(copy, device="cpu", dtype="float32", sampler="ddim")
    assert pipe.unet.dtype == torch.float32


def as_variant(part: Path, variant: str, *, keep: bool = False) -> None:
    """Give a component's weights a variant; ``keep``: beside the full precision, and with other values."""
    for file in list(part.glob("*.safetensors")):
        weights = load_file(file)
        save_file(
            {name: 0.5 * tensor if keep else tensor for name, tensor in weights.items()},
            file.with_name(file.name.replace(".safetensors", f".{variant}.safetensors")),
            {"format": "pt"},
        )
        if not keep:
            file.unlink()


PARTS = ("unet", "vae", "text_encoder")


@pytest.mark.parametrize(
    ("variants", "both", "variant"),
    [
        ({"unet": "fp16"}, {}, "fp16"),
        ({"vae": "fp16"}, {}, "fp16"),
        ({"text_encoder": "bf16"}, {}, "bf16"),
        (dict.fromkeys(PARTS, "bf16"), {}, "bf16"),
        ({"unet": "fp16"}, {"vae": "fp16", "text_encoder": "fp16"}, "fp16"),
        ({}, {"unet": "fp16", "vae": "bf16"}, None),
    ],
    ids=str,
)
def test_every_component_has_the_variant_that_diffusers_reads(
    copy: Path, tmp_path: Path, variants: dict[str, str], both: dict[str, str], variant: str | None
) -> None:
    for part, name in variants.items():
        as_variant(copy / part, name)
    for part, name in both.items():
        as_variant(copy / part, name, keep=True)
    theirs = StableDiffusionPipeline.from_pretrained(copy, variant=variant, safety_checker=None)
    Source(str(copy)).find()
    Source(str(copy)).copy(tmp_path / "plain")
    for folder in (copy, tmp_path / "plain"):
        pipe = load_pipeline(folder, device="cpu", dtype="float32", sampler="ddim")
        for part in PARTS:
            expected = getattr(theirs, part).state_dict()
            assert all(torch.equal(v, expected[k]) for k, v in getattr(pipe, part).state_dict().items())
    assert not [
        file for file in (tmp_path / "plain").rglob("*") if "fp16" in file.name or "bf16" in file.name
    ]
    before = pipeline_sha256(copy)
    for part, name in both.items():  # what is hashed is what is loaded
        for file in (copy / part).glob("*.safetensors"):
            if (f".{name}." in file.name) != bool(variant):
                file.write_bytes(b"not read")
    assert pipeline_sha256(copy) == before


def test_a_replacement_in_another_variant_is_hashed_and_loaded_alike(copy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(copy / "text_encoder", tmp_path / "text_encoder"))
    plain = component_sha256(folder)
    as_variant(copy / "unet", "fp16")
    as_variant(folder, "fp16", keep=True)
    assert component_sha256(folder) == plain
    pipe = load_pipeline(
        copy, device="cpu", dtype="float32", sampler="ddim", replaced={"text_encoder": folder}
    )
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(v, stored[k]) for k, v in pipe.text_encoder.state_dict().items())
    (folder / "model.safetensors").unlink()
    assert component_sha256(folder) != plain


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "weights.safetensors",
            r"holds weights\.safetensors, which neither diffusers nor transformers loads; expected a name",
        ),
        ("diffusion_pytorch_model-00001-of-00002.safetensors", "holds 1 of 2 parts of its weights"),
        ("diffusion_pytorch_model.fp16-00002-of-00003.safetensors", "holds 1 of 3 parts of its weights"),
    ],
)
def test_weights_that_cannot_be_loaded_are_refused_beforehand(copy: Path, name: str, message: str) -> None:
    (copy / "vae" / "diffusion_pytorch_model.safetensors").rename(copy / "vae" / name)
    with pytest.raises(MissingFiles, match=message):
        Source(str(copy)).find()


def test_a_safety_checker_is_not_loaded(copy: Path) -> None:
    index = copy / "model_index.json"
    entries = json.loads(index.read_text())
    entries["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    entries["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index.write_text(json.dumps(entries))
    assert load_pipeline(copy, device="cpu", dtype="float32", sampler="ddim").safety_checker is None
