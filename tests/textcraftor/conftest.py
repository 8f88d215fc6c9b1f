"""A tiny SDXL pipeline, and small training configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from tcbench.settings import build_settings
from textcraftor.config import TrainConfig

GROUPS = {
    field.name: [inner.name for inner in fields(hints)]
    for field in fields(TrainConfig)
    if is_dataclass(hints := get_type_hints(TrainConfig)[field.name])
}
SPECIAL = {"algorithm": ("algorithm", "name"), "prompts": ("data", "prompts"),
           "validation_prompts": ("validation", "prompts")}  # fmt: skip


def _small_config(pipeline: Path, **settings: Any) -> TrainConfig:
    """A configuration from settings by their names without the group, such as ``lr=1e-3``."""
    nested: dict[str, Any] = {"model": str(pipeline)}
    for name, value in settings.items():
        group, key = SPECIAL.get(name) or next(
            ((group, name) for group, names in GROUPS.items() if name in names), ("", name)
        )
        if group:
            nested.setdefault(group, {})[key] = value
        else:
            nested[key] = value
    return build_settings(TrainConfig, nested, source="test")


@pytest.fixture(scope="module")
def toys(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the toy rewards of the test module, its `REWARDS`."""
    file = tmp_path_factory.mktemp("rewards") / "toys.py"
    file.write_text(request.module.REWARDS)
    return file


@pytest.fixture
def prompts(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with the prompts of the test module, its `PROMPTS`."""
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(request.module.PROMPTS) + "\n")
    return file


@pytest.fixture
def small_config() -> Callable[..., TrainConfig]:
    """Makes a configuration of a pipeline's folder from settings without their groups."""
    return _small_config


@pytest.fixture
def config_for(
    request: pytest.FixtureRequest, tiny_pipeline: Path, toys: Path, prompts: Path
) -> Callable[..., TrainConfig]:
    """Makes small configurations: the test module's `CONFIG` for its `REWARD`; keywords change settings."""

    def make(**changes: Any) -> TrainConfig:
        base: dict[str, Any] = request.module.CONFIG
        files = {"mix": f"{toys}:{request.module.REWARD}=1", "prompts": str(prompts)}
        if base["every"]:
            files["validation_prompts"] = str(prompts)
        return _small_config(tiny_pipeline, **files | base | changes)

    return make


@pytest.fixture(scope="session")
def tiny_sdxl(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL pipeline with random weights: two text encoders, pooled embeddings, size conditioning."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(1)
    settings = json.loads((tiny_pipeline / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    names = ("vocab_size", "num_attention_heads", "max_position_embeddings", "bos_token_id", "eos_token_id")
    common = {name: settings[name] for name in names} | {"intermediate_size": 16, "num_hidden_layers": 3}
    first = CLIPTextConfig(hidden_size=16, projection_dim=8, **common)
    second = CLIPTextConfig(hidden_size=24, projection_dim=8, **common | {"num_attention_heads": 4})
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16 + 24,
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
        transformer_layers_per_block=1,
        use_linear_projection=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(tiny_pipeline / "vae"),
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=CLIPTokenizer.from_pretrained(tiny_pipeline / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(tiny_pipeline / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("pipelines") / "tiny-sdxl"
    pipeline.save_pretrained(folder)
    return folder
