"""ImageReward with timm's vision transformer and transformers' BLIP text model in its halves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from rewards.verification.references.open_clip_model import cropped

WIDTHS_AT = (0, 2, 4, 6, 7)
"""Places of the linear layers in the published head, which has dropouts in between."""


def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """The standardised reward of the text's first state after looking at the picture."""
    from transformers import BertTokenizer

    sizes, state = _read(files["config"], files["checkpoint"])
    eyes, reader = _halves(files["config"], files["checkpoint"])
    tokenizer = BertTokenizer(vocab=str(files["vocabulary"]))
    text = tokenizer(prompt, truncation=True, max_length=sizes["max_tokens"], return_tensors="pt")
    with torch.no_grad():
        seen = eyes.forward_features(cropped(image, sizes["image_size"]))
        x = reader(
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state[0, 0]
        for place in WIDTHS_AT:
            x = state[f"mlp.layers.{place}.weight"] @ x + state[f"mlp.layers.{place}.bias"]
    return float((x - sizes["mean"]) / sizes["std"])


@lru_cache(maxsize=2)
def _read(config: Path, checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    load = load_file if checkpoint.suffix == ".safetensors" else _torch
    state = {key: value.float() for key, value in load(checkpoint).items()}
    return json.loads(config.read_text(encoding="utf-8")), state


def _torch(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True))


@lru_cache(maxsize=2)
def _halves(config: Path, checkpoint: Path) -> tuple[Any, Any]:
    from timm.models.vision_transformer import VisionTransformer
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    sizes, state = _read(config, checkpoint)
    eyes = VisionTransformer(
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        embed_dim=sizes["vision_width"],
        depth=sizes["vision_layers"],
        num_heads=sizes["vision_heads"],
        num_classes=0,
    ).eval()
    eyes.load_state_dict(_below(state, "blip.visual_encoder."))
    text = BlipTextConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["text_width"],
        encoder_hidden_size=sizes["vision_width"],
        intermediate_size=4 * sizes["text_width"],
        num_hidden_layers=sizes["text_layers"],
        num_attention_heads=sizes["text_heads"],
        max_position_embeddings=sizes["max_positions"],
        is_decoder=True,  # what makes transformers build the cross-attention
    )
    reader = BlipTextModel(text, add_pooling_layer=False).eval()
    missing, _ = reader.load_state_dict(_below(state, "blip.text_encoder."), strict=False)
    if any("position_ids" not in key for key in missing):
        raise ValueError(f"{checkpoint} lacks {', '.join(missing)}")
    return eyes, reader


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
