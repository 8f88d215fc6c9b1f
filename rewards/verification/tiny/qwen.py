"""Tiny random weights of HPSv3 and its Qwen2-VL, in the files and under the keys of the published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from rewards.models.hpsv3 import INSTRUCTION
from rewards.verification.tiny.sizes import WIDTH, Sizes, Writer

_SPECIAL = [
    f"<|{name}|>"
    for name in (
        *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"),
        *("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    )
]
"""Qwen2-VL's special tokens in the order of their ids, which follow those of the vocabulary."""


@cache
def _vocabulary() -> tuple[dict[str, int], list[list[str]]]:
    """Train a byte-level BPE on HPSv3's instruction, so that merges matter: ids by token, and the merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1024, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator([INSTRUCTION], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def _config() -> dict[str, Any]:
    """Return Qwen2-VL's configuration as it is published: flat, with embedding rows that no token uses."""
    ids = {token: len(_vocabulary()[0]) + i for i, token in enumerate(_SPECIAL)}
    return {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vocab_size": len(_vocabulary()[0]) + len(_SPECIAL) + 32,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "initializer_range": 0.1,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 2,
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "num_heads": 2,
            "mlp_ratio": 2,
            "initializer_range": 0.05,
        },
    }


def _write_base(folder: Path, _: Sizes) -> Path:
    """Write Qwen2-VL's configuration and tokenizer in transformers' layout."""
    vocabulary, merges = _vocabulary()
    added = {
        str(len(vocabulary) + i): {"content": token, "special": True, "normalized": False}
        for i, token in enumerate(_SPECIAL)
    }
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": _SPECIAL[1:],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "model_max_length": 32768,
    }
    contents = {
        "config.json": json.dumps(_config()),
        "vocab.json": json.dumps(vocabulary),
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n",
        "tokenizer_config.json": json.dumps(settings),
    }
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def _write_checkpoint(path: Path, _: Sizes) -> Path:
    """Write HPSv3 under the keys of transformers 4.45, which trained it.

    All but the reward head is bfloat16, and Qwen's unused language model head is there too.
    """
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = Qwen2VLConfig.from_dict(_config())
    config.text_config.vocab_size = len(_vocabulary()[0]) + len(_SPECIAL) + 1  # one for <|Reward|>
    state = {
        key.replace("model.visual.", "visual.").replace("model.language_model.", "model."): value.bfloat16()
        for key, value in Qwen2VLForConditionalGeneration(config).state_dict().items()
    }
    head = {"0": nn.Linear(WIDTH, 1024), "3": nn.Linear(1024, 16), "5": nn.Linear(16, 2)}
    state |= {f"rm_head.{key}": value for key, value in nn.ModuleDict(head).state_dict().items()}
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


WRITERS: Mapping[str, Writer] = {"checkpoint": _write_checkpoint, "base": _write_base}
"""Functions that write HPSv3's weights, by key."""
