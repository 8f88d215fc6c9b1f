"""Tiny random weights of VQAScore's CLIP-FlanT5, in the files and under the keys of the published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rewards.verification.tiny.sizes import WIDTH, Sizes, Writer
from rewards.verification.tiny.vocabularies import vocabulary, write_tiny_tokenizer


def _write_vision_config(path: Path, sizes: Sizes) -> Path:
    """Write a CLIP configuration of which only the vision part is read."""
    config = {"model_type": "clip", "vision_config": sizes.two_tower_config()["vision_config"]}
    path.with_suffix(".json").write_text(json.dumps(config), encoding="utf-8")
    return path.with_suffix(".json")


def _clip_t5_config() -> dict[str, Any]:
    """Return CLIP-FlanT5's configuration.

    As in the published one, the embedding table has more rows than the tokenizer has pieces.
    """
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
        "vocab_size": len(vocabulary("t5")) + 7,
        "torch_dtype": "bfloat16",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "use_cache": False,
        "use_mm_proj": True,
    }


def _write_clip_t5(folder: Path, sizes: Sizes) -> Path:
    """Write CLIP-FlanT5 as published, with the vision tower and every copy of the embeddings; or as saved."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

    folder.mkdir(exist_ok=True)
    config = _clip_t5_config()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    state = dict(T5ForConditionalGeneration(T5Config.from_dict(dict(config))).state_dict())
    state["embed_tokens.weight"] = state["shared.weight"]
    # Flan-T5's output layer is not its embedding table, although later versions of transformers tie them.
    state["lm_head.weight"] = torch.randn(config["vocab_size"], WIDTH) / 4
    # Image tokens of a random tower are small beside word embeddings: without this gain the image would
    # hardly change the answer, and the comparison would not notice a wrong image.
    # The first layer's part is small, so that the inputs of the GELU are about 2 or -2: there its exact form
    # differs most from the one with tanh.
    for layer, gain in ((0, 0.3), (2, 20.0)):
        state[f"mm_projector.{layer}.weight"] = nn.init.orthogonal_(torch.empty(WIDTH, WIDTH), gain=gain)
        state[f"mm_projector.{layer}.bias"] = 2.0 * torch.randn(WIDTH).sign()
    vision = CLIPVisionConfig.from_dict(sizes.two_tower_config()["vision_config"])
    tower = CLIPVisionModel(vision).state_dict()
    prefix = "vision_tower.vision_tower.vision_model."
    state |= {prefix + key.removeprefix("vision_model."): value for key, value in tower.items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(17)[None]
    state = {key: v.bfloat16() if v.is_floating_point() else v for key, v in state.items()}
    if sizes.saved:
        save_file({key: v.clone().contiguous() for key, v in state.items()}, folder / "model.safetensors")
        return folder
    return _save_sharded(state, folder)


def _save_sharded(state: Mapping[str, Any], folder: Path) -> Path:
    """Save two torch checkpoints of half of the keys each, and their index."""
    names = [f"pytorch_model-0000{part}-of-00002.bin" for part in (1, 2)]
    shards = {key: names[2 * i // len(state)] for i, key in enumerate(sorted(state))}
    for name in names:
        torch.save({key: state[key] for key, shard in shards.items() if shard == name}, folder / name)
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (folder / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    return folder


WRITERS: Mapping[str, Writer] = {
    "model": _write_clip_t5,
    "tower": _write_vision_config,
    "tokenizer": lambda path, sizes: write_tiny_tokenizer("t5", path, sizes.tokens),
}
"""Functions that write VQAScore's weights, by key."""
