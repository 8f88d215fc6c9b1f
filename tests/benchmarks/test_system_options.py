"""Settings of a system file that change images: each is part of the generation id, none by default."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.execution import execute_plan
from benchmarks.planning import Request, plan_run
from benchmarks.systems import System
from leaderboards.run_state import RunState
from tcbench.errors import ConfigError, MissingFiles, Problems, TcbenchError
from tcbench.progress import Silent
from textcraftor.config import make_config
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prompts import initial_latents
from textcraftor.diffusion.schedule import SAMPLERS, Schedule
from textcraftor.io.export import ADAPTERS, export_encoder, save_text_encoder
from textcraftor.settings import TrainableSettings
from textcraftor.tuned import TunedPipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers


@pytest.fixture
def asked(
    tiny_pipeline: Path, request_for: Callable[..., Request], tmp_path: Path
) -> Callable[..., RunState]:
    """Runs the tiny pipeline with lines of a system file on eight prompts, without scoring."""

    def go(
        lines: str = "",
        *,
        pipeline: Path = tiny_pipeline,
        dry: bool = False,
        fetch: bool = True,
        **changes: Any,
    ) -> Any:
        file = tmp_path / "mine.toml"
        file.write_text(f'pipeline = "{pipeline}"\ntrained_on = []\n{lines}\n')
        request = request_for(model=str(file), steps=None, rewards=[], **changes)
        plan = plan_run(request, with_rewards=False, fetch=fetch)
        return plan if dry else execute_plan(plan, Silent()).run

    return go


def pixels(run: RunState) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted((run.path / "images").iterdir())])


def adapters(folder: Path, pipeline: Path, *parts: str, kohya: bool = False) -> Path:
    """Write a file of adapters for the parts of a pipeline."""
    pipe = load_pipeline(pipeline, device="cpu", dtype="float32", sampler="ddim")
    tuned = TunedPipeline(pipe, TrainableSettings(lora_rank=2, parts=parts), guided=True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in tuned.trained_parameters().values():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    tuned.save(folder / "tuned", tuned.trained_parameters())
    if not kohya:
        return folder / "tuned" / ADAPTERS
    from textcraftor.diffusion.pipeline import Source

    export_encoder(folder / "tuned", folder / "kohya", "kohya", Source(str(pipeline)))
    return folder / "kohya" / "kohya.safetensors"


def component(folder: Path, pipeline: Path, name: str) -> Path:
    """Write a component of a pipeline with other weights."""
    model = copy.deepcopy(
        getattr(load_pipeline(pipeline, device="cpu", dtype="float32", sampler="ddim"), name)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    if name.startswith("text_encoder"):
        save_text_encoder(model, folder / name)
    else:
        model.save_pretrained(folder / name)
    return folder / name


def test_every_option_changes_images_and_the_generation_id(
    asked: Callable[..., RunState], tiny_pipeline: Path, tmp_path: Path
) -> None:
    lora = adapters(tmp_path, tiny_pipeline, "text_encoder", "unet")
    options = {
        "": "",
        "vae": f'vae = "{component(tmp_path, tiny_pipeline, "vae")}"',
        "lora": f'lora = "{lora}"',
        "weaker lora": f'lora = {{ "{lora}" = 0.5 }}',
        "negative_prompt": 'negative_prompt = "dull"',
        "clip_skip": "clip_skip = 1",
        "guidance_rescale": "guidance_rescale = 0.7",
    }
    runs = {name: asked(line + "\nschedule.steps = 2") for name, line in options.items()}
    images = [pixels(run) for run in runs.values()]
    for index, one in enumerate(images):
        assert all((one != other).any() for other in images[:index])
    ids = [run.header.generation_id for run in runs.values()]
    assert len(set(ids)) == len(ids)
    for line in ('negative_prompt = ""', "clip_skip = 0", "guidance_rescale = 0", "lora = {}"):
        assert asked(line + "\nschedule.steps = 2", dry=True).header.generation_id == ids[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_do_not_depend_on_the_batch(
    asked: Callable[..., RunState], sampler: str, tmp_path: Path
) -> None:
    lines = f'[schedule]\nsampler = "{sampler}"\nsteps = 5\nguidance = 3.0'
    together = pixels(asked(lines, batch_size=8))
    apart = pixels(asked(lines, batch_size=3, out=tmp_path / "apart"))
    assert np.abs(together.astype(int) - apart.astype(int)).max() <= 1
    assert (together[0] != together[1]).any()


def test_options_are_those_of_the_unmodified_pipeline(
    asked: Callable[..., RunState], tiny_pipeline: Path, tmp_path: Path
) -> None:
    lora = adapters(tmp_path, tiny_pipeline, "text_encoder", "unet", kohya=True)
    run = asked(
        f'lora = {{ "{lora}" = 0.5 }}\nnegative_prompt = "dull"\nclip_skip = 1\nguidance_rescale = 0.7\n'
        '[schedule]\nsampler = "heun"\nsteps = 3'
    )
    theirs = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    theirs.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="it")
    theirs.set_adapters(["it"], [0.5])
    theirs.text_encoder.__dict__["text_model"] = theirs.text_encoder  # where diffusers looks for a layer norm
    from diffusers import HeunDiscreteScheduler

    theirs.scheduler = HeunDiscreteScheduler.from_config(theirs.scheduler.config)
    samples = [run.samples[key] for key in sorted(run.samples)]
    texts = [sample.text for sample in samples]
    expected = theirs(
        texts, latents=initial_latents([s.noise_seed for s in samples], (4, 8, 8)), num_inference_steps=3,
        guidance_scale=7.5, negative_prompt=["dull"] * len(texts), clip_skip=1, guidance_rescale=0.7,
        output_type="np",
    ).images  # fmt: skip
    assert np.abs(pixels(run) / 255 - expected).max() < 0.01


def test_the_second_text_encoder_of_sdxl_can_be_replaced(
    asked: Callable[..., RunState], tiny_sdxl: Path, tmp_path: Path
) -> None:
    line = f'text_encoder_2 = "{component(tmp_path, tiny_sdxl, "text_encoder_2")}"'
    plain, other = (asked(f"{x}\nschedule.steps = 2", pipeline=tiny_sdxl) for x in ("", line))
    assert plain.header.generation_id != other.header.generation_id
    assert (pixels(plain) != pixels(other)).any()


def test_adapters_that_do_not_fit_are_refused(
    asked: Callable[..., RunState], tiny_pipeline: Path, tmp_path: Path
) -> None:
    lora = adapters(tmp_path, tiny_pipeline, "text_encoder")
    weights = load_file(lora)
    larger = {key: torch.cat([value, value], dim=1) for key, value in weights.items()}
    unknown = weights | {key.replace("layers.0", "layers.7"): value.clone() for key, value in weights.items()}
    for name, content, message in (
        ("larger", larger, "larger.safetensors does not fit the pipeline"),
        ("unknown", unknown, "unknown.safetensors changes 8 layers, of which the pipeline has 4"),
    ):
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(MissingFiles, match=message):
            asked(f'lora = "{name}.safetensors"\nschedule.steps = 1')
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for line, error, message in (
        ('lora = "missing.safetensors"', MissingFiles, "adapter file not found: missing.safetensors"),
        ('lora = "other.safetensors"', MissingFiles, "other.safetensors contains no LoRA adapters"),
        ("lora = 3", ConfigError, "lora = 3; expected"),
        ('text_encoder_2 = "tuned/text_encoder"', MissingFiles, "has no text_encoder_2 to replace"),
        ("clip_skip = 5", ConfigError, "clip_skip = 5; .* at most 1"),
        ("guidance_rescale = 2", ConfigError, "guidance_rescale = 2; expected"),
        (
            'negative_prompt = "x"\nschedule.guidance = 1',
            ConfigError,
            "negative_prompt = 'x' with guidance",
        ),
        ('[schedule]\nsampler = "lcm"\nsteps = 51', ConfigError, 'steps = 51 with sampler "lcm"; .* 50'),
    ):
        with pytest.raises(error, match=message):
            asked(line, dry=True)


def test_what_a_pipeline_lacks_is_reported_with_other_mistakes(asked: Callable[..., RunState]) -> None:
    for line, message, fetch in (
        ("clip_skip = 5", "clip_skip = 5; .* at most 1", True),
        ('lora = "missing.safetensors"', "adapter file not found", False),
    ):
        with pytest.raises(Problems) as problems:
            asked(f'{line}\nbest_of = 2\ntest_time_reward = "clop=1"', dry=True, fetch=fetch)
        assert len(problems.value.errors) == 2
        assert "unknown reward 'clop'" in str(problems.value)
        assert re.search(message, str(problems.value))


@pytest.mark.parametrize("fetch", [False, True])
def test_mistakes_in_a_system_are_reported_before_downloads(
    tiny_pipeline: Path,
    request_for: Callable[..., Request],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fetch: bool,
) -> None:
    def snapshot(*_: object, local_files_only: bool, **__: object) -> None:
        assert local_files_only, "nothing may be downloaded"
        raise FileNotFoundError("not in the cache")

    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", snapshot)
    monkeypatch.setattr("rewards.weights.hub.offline_reason", lambda url="": "")
    (tmp_path / "file").touch()
    lines = [
        f'pipeline = "{tiny_pipeline}"', 'text_encoder = "no-encoder"', 'unet = "no-unet"', "clip_skip = 99",
        'lora = "no-lora.safetensors"', "best_of = 2", 'test_time_reward = "hpsv2=1"',
        'calibration = "no-calibration.json"', "[[windows]]", "weights = { no-window = 1.0 }",
    ]  # fmt: skip
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    request = request_for(
        model=str(tmp_path / "mine.toml"), rewards=["pickscore", "clop"], prompts=tmp_path / "none.txt",
        device="gpu", out=tmp_path / "file", steps=None, suite="custom",
    )  # fmt: skip
    with pytest.raises(Problems) as problems:
        plan_run(request, fetch=fetch)
    lines = str(problems.value).splitlines()
    mistakes = (
        "no-encoder", "no-unet", "no-lora", "no-calibration", "no-window", "'clop'", "none.txt",
        "did you mean cuda", "Not a directory",
    )  # fmt: skip
    assert all(sum(mistake in line for line in lines) == 1 for mistake in mistakes), lines
    downloads = [line.split()[0] for line in lines[len(mistakes) :]]
    assert sorted(downloads) == ([] if fetch else ["hpsv2", "pickscore"])


def test_training_refuses_samplers_that_it_does_not_support(tiny_pipeline: Path) -> None:
    for sampler in ("heun", "lms", "unipc", "euler-a", "lcm"):
        with pytest.raises(ConfigError, match=f'schedule.sampler = "{sampler}" cannot be trained with'):
            make_config(str(tiny_pipeline), overrides={"schedule.sampler": sampler})


def test_a_saved_system_keeps_its_options(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "a style.safetensors").touch()
    system = System(
        "saved",
        str(tiny_pipeline),
        vae=str(tmp_path / "vae"),
        lora={str(tmp_path / "a style.safetensors"): 0.5},
        negative_prompt="dull",
        clip_skip=1,
        guidance_rescale=0.5,
        schedule=Schedule("euler-a", 4),
        trained_on=(),
    )
    (tmp_path / "vae").mkdir()
    system.save(tmp_path / "saved")
    assert System.find(str(tmp_path / "saved")) == system


def test_a_single_file_says_how_to_use_it(tmp_path: Path) -> None:
    names = {
        "sd": ["model.diffusion_model.out.0.weight"],
        "xl": ["model.diffusion_model.out.0.weight", "conditioner.embedders.1.model.ln_final.bias"],
        "lora": ["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"],
        "vae": ["decoder.conv_in.weight"],
    }
    for name, keys in names.items():
        save_file({key: torch.zeros(1) for key in keys}, tmp_path / f"{name}.safetensors")
    (tmp_path / "old.ckpt").touch()
    (tmp_path / "broken.safetensors").write_bytes(b"<html>not found</html>")
    (tmp_path / "notes.md").touch()
    for name, message in (
        ("sd.safetensors", r"import StableDiffusionPipeline as P; .*sd.safetensors'\).save_pretrained"),
        ("xl.safetensors", "import StableDiffusionXLPipeline as P;"),
        ("old.ckpt", "is probably a single-file checkpoint"),
        ("lora.safetensors", "is a LoRA adapter file.*`lora` in a system's TOML"),
        ("vae.safetensors", "is a weights file, not a pipeline"),
        ("broken.safetensors", "is not a safetensors file"),
        ("notes.md", "is a file; expected a named system"),
    ):
        for find in (System.find, make_config):
            with pytest.raises(TcbenchError, match=message):
                find(str(tmp_path / name))
