"""Writing the micro pipeline as the plain diffusers folder that is shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from textcraftor.io.export import forget_origin, save_text_encoder
from textcraftor.micro.training.unet import scheduler


def write_pipeline(
    folder: Path, tokenizer: Path, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, vae: AutoencoderKL
) -> None:
    """Write ``folder`` anew, weights in float16: ``StableDiffusionPipeline.from_pretrained`` reads it."""
    shutil.rmtree(folder, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
        unet=unet.half(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    forget_origin(folder / "vae" / "config.json")
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tokenizer, folder / "tokenizer")
    save_text_encoder(text_encoder, folder / "text_encoder", half=True)
