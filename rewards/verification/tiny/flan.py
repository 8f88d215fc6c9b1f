"""Tiny random weights of VQAScore's CLIP-FlanT5, in the files and under the keys of the published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rewards.verification.tiny.vocabularies import pieces

if TYPE_CHECKING:
    from rewards.verification.tiny.checkpoints import Sizes

WIDTH = 32


def vision_config(sizes: Sizes) -> dict[str, Any]:
    """Transformers' configuration of the tower alone."""
    from rewards.verification.tiny.checkpoints import towers_config  # which lists these writers

    config: dict[str, Any] = towers_config(sizes)["vision_config"]
    return config


def write_vision_config(path: Path, sizes: Sizes) -> Path:
    """The tower's sizes, as a CLIP's configuration has them."""
    written = json.dumps({"model_type": "clip", "vision_config": vision_config(sizes)})
    path.with_suffix(".json").write_text(written, encoding="utf-8")
    return path.with_suffix(".json")


def clip_t5_config() -> dict[str, Any]:
    """What CLIP-FlanT5's configuration holds, a vocabulary that is rounded up beyond the tokenizer's too."""
    return {
        "architectures": ["CLIPT5ForConditionalGeneration"],
        "model_type": "clip_t5",
        "d_model": WIDTH,
        "d_kv": 12,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "vocab_size": len(pieces()) + 7,
        "torch_dtype": "bfloat16",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "use_cache": False,
        "use_mm_proj": True,
    }


def write_clip_t5(folder: Path, sizes: Sizes) -> Path:
    """A CLIP-FlanT5 in the published layout: in parts, with the tower and every copy of the table."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

    folder.mkdir(exist_ok=True)
    config = clip_t5_config()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    state = dict(T5ForConditionalGeneration(T5Config.from_dict(dict(config))).state_dict())
    state["embed_tokens.weight"] = state["shared.weight"]
    # not the table of words, as in every Flan-T5, though later versions of transformers make them one
    state["lm_head.weight"] = torch.randn(config["vocab_size"], WIDTH) / 4
    # spread out, so that what a random tower sees counts among the words
    wide = nn.init.orthogonal_(torch.empty(WIDTH, WIDTH), gain=3)
    state |= {f"mm_projector.{place}.weight": wide.clone() for place in (0, 2)}
    state |= {f"mm_projector.{place}.bias": torch.randn(WIDTH) for place in (0, 2)}
    tower = CLIPVisionModel(CLIPVisionConfig.from_dict(vision_config(sizes))).state_dict()
    prefix = "vision_tower.vision_tower.vision_model."
    state |= {prefix + key.removeprefix("vision_model."): value for key, value in tower.items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(17)[None]
    return save_parts({key: v.bfloat16() if v.is_floating_point() else v for key, v in state.items()}, folder)


def save_parts(state: Mapping[str, Any], folder: Path) -> Path:
    """Torch checkpoints of half of the keys each, and the index that says which key is where."""
    names = [f"pytorch_model-0000{part}-of-00002.bin" for part in (1, 2)]
    places = {key: names[2 * place // len(state)] for place, key in enumerate(sorted(state))}
    for name in names:
        torch.save({key: state[key] for key, place in places.items() if place == name}, folder / name)
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    return folder
