"""Write the micro pipeline as a plain diffusers folder, in the form in which it is shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from textcraftor.io.export import save_component, save_text_encoder
from textcraftor.micro.training.unet import noise_scheduler


def write_pipeline(
    folder: Path, tokenizer: Path, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, vae: AutoencoderKL
) -> None:
    """Replace ``folder`` by a pipeline that ``StableDiffusionPipeline.from_pretrained`` loads, in float16."""
    shutil.rmtree(folder, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
        unet=unet.half(),
        scheduler=noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    # The VAE's config names the folder it was loaded from. Tokenizer and text encoder are written again in
    # layouts that older versions of transformers read too.
    save_component(vae, folder / "vae")
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tokenizer, folder / "tokenizer")
    save_text_encoder(text_encoder, folder / "text_encoder", half=True)
