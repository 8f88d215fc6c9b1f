"""A tiny SDXL, beside the tiny Stable Diffusion that all tests share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_sdxl(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of SDXL's parts with random weights: two text encoders, pooled text, sizes told."""
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
