"""ImageReward with timm's vision transformer and transformers' BLIP text model as its two halves.

Official code: THUDM/ImageReward (ImageReward/ImageReward.py and ImageReward/models/BLIP).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from rewards.verification.references.open_clip_io import center_crop

_LINEAR_LAYERS = (0, 2, 4, 6, 7)
"""Numbers of the linear layers in the head (ImageReward.py, class MLP); dropouts have the others."""


def score(files: Mapping[str, Path], image: Image.Image, prompt: str) -> float:
    """Return the standardized reward."""
    from transformers import BertTokenizer

    sizes, state = _read(files["config"], files["checkpoint"])
    vision, text_model = _halves(files["config"], files["checkpoint"])
    tokenizer = BertTokenizer(vocab=str(files["vocabulary"]))
    # The official code pads to 35 tokens and masks the padding, so a single text needs none.
    text = tokenizer(prompt, truncation=True, max_length=sizes["max_tokens"], return_tensors="pt")
    with torch.no_grad():
        image_states = vision.forward_features(center_crop(image, sizes["image_size"]))
        # ImageReward.score: the state of the first token, [CLS], after cross-attention to the image.
        x = text_model(
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
            encoder_hidden_states=image_states,
            is_decoder=False,  # the text attends in both directions
        ).last_hidden_state[0, 0]
        for layer in _LINEAR_LAYERS:
            x = state[f"mlp.layers.{layer}.weight"] @ x + state[f"mlp.layers.{layer}.bias"]
    # ImageReward.score: mean and standard deviation of the raw scores on the training set.
    return float((x - sizes["mean"]) / sizes["std"])


@lru_cache(maxsize=2)
def _read(config: Path, checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sizes and the checkpoint's tensors."""
    if checkpoint.suffix == ".safetensors":
        state = load_file(checkpoint)
    else:
        state = torch.load(checkpoint, weights_only=True)
    return json.loads(config.read_text(encoding="utf-8")), {key: v.float() for key, v in state.items()}


@lru_cache(maxsize=2)
def _halves(config: Path, checkpoint: Path) -> tuple[Any, Any]:
    """Return the vision transformer and the text model with cross-attention."""
    from timm.models.vision_transformer import VisionTransformer
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    sizes, state = _read(config, checkpoint)
    vision = VisionTransformer(
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        embed_dim=sizes["vision_width"],
        depth=sizes["vision_layers"],
        num_heads=sizes["vision_heads"],
        num_classes=0,
    ).eval()
    vision.load_state_dict(_below(state, "blip.visual_encoder."))
    text_config = BlipTextConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["text_width"],
        encoder_hidden_size=sizes["vision_width"],
        intermediate_size=4 * sizes["text_width"],
        num_hidden_layers=sizes["text_layers"],
        num_attention_heads=sizes["text_heads"],
        max_position_embeddings=sizes["max_positions"],
        is_decoder=True,  # transformers builds cross-attention for decoders only
    )
    text_model = BlipTextModel(text_config, add_pooling_layer=False).eval()
    missing, _ = text_model.load_state_dict(_below(state, "blip.text_encoder."), strict=False)
    # Position ids are a buffer that some versions of transformers save; any other missing key is an error.
    if any("position_ids" not in key for key in missing):
        raise ValueError(f"{checkpoint}: missing keys: {', '.join(missing)}")
    return vision, text_model


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
