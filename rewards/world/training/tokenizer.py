"""The world's tokenizer: a byte-level BPE in CLIP's layout, learned from captions, that accepts any text.

The vocabulary has CLIP's order: the 256 byte symbols, the same with the end-of-word mark, the merges, then
the two special tokens. The end token has the highest id and is also the padding. So pooling at the first
maximum (open_clip) and at the first end token (transformers) agree, as in Stable Diffusion 1.5.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from rewards.world.captions import caption
from rewards.world.scenes import Scene

TOKENIZER = "tokenizer"
"""Subfolder of a build with the tokenizer."""

CONTEXT_LENGTH = 48
"""Tokens that a world text encoder reads, including both special tokens."""

START, END = "<|startoftext|>", "<|endoftext|>"
_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class CaptionTokenizer:
    """Texts to token ids (B, T) int64 on torch's default device.

    Args:
        folder: Folder of the tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __call__(self, texts: list[str], pad: bool = True) -> Tensor:
        """Return ids of T = 48 tokens, or without ``pad`` of the longest text's length."""
        padding = "max_length" if pad else "longest"
        batch = self.tokenizer(
            texts, padding=padding, truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"
        )
        ids: Tensor = batch["input_ids"]
        return ids.to(torch.get_default_device())


def train_tokenizer(folder: Path) -> None:
    """Train the tokenizer on captions, and write ``folder/tokenizer``."""
    _write_tokenizer(folder / TOKENIZER, _caption_corpus())


def _caption_corpus(count: int = 20_000, seed: int = 5) -> list[str]:
    """Return random captions, most of which name the style, so that its words get merges."""
    rng = np.random.default_rng(seed)
    return [caption(rng, Scene.random(rng), style=0.6) for _ in range(count)]


def _write_tokenizer(folder: Path, texts: Iterable[str], merges: int = 512) -> None:
    """Learn merges and write a folder that old and new versions of ``transformers.CLIPTokenizer`` read."""
    learned = _learn_merges(texts, merges)
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = symbols + [symbol + "</w>" for symbol in symbols] + [left + right for left, right in learned]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*words, START, END]))}
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in learned)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    _write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT_LENGTH, "do_lower_case": True}
    _write_json(
        folder / "tokenizer_config.json", config | special | {"add_prefix_space": False, "errors": "replace"}
    )


def _learn_merges(texts: Iterable[str], merges: int) -> list[tuple[str, str]]:
    """Return the first byte-pair merges of the texts, in order."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(str(left), str(right)) for left, right in learned][:merges]


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
