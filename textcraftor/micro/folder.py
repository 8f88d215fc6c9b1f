"""Writing the micro pipeline as the plain diffusers folder that is shipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from textcraftor.micro.unet import scheduler

PREFIX = "text_model."


def write_text_encoder(model: CLIPTextModel, folder: Path) -> None:
    """A ``text_encoder`` folder that transformers 4 and 5 both read.

    The keys carry the prefix ``text_model.``: version 5 drops it when it saves, and version 4 then loads
    such a folder with every weight random. The recorded type is float32, so that no loader leaves it in
    half precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = "float32"
    model.config.architectures = ["CLIPTextModel"]
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype"] = "float32"  # the name transformers 4 knows it by
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = {
        PREFIX + key.removeprefix(PREFIX): value.half().contiguous()
        for key, value in model.state_dict().items()
        if not key.endswith("position_ids")
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


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
    _forget_origin(folder / "vae" / "config.json")
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tokenizer, folder / "tokenizer")
    write_text_encoder(text_encoder, folder / "text_encoder")


def _forget_origin(path: Path) -> None:
    """Drop where on this machine a model was loaded from, which diffusers notes: nobody else has it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
