"""Tiny vocabularies of every kind of tokenizer, in the very files of the real ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sized
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewards.verification.tiny.checkpoints import Sizes

GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")


@cache
def bytes_vocabulary() -> tuple[str, ...]:
    """Byte-level BPE without merges: all bytes, all bytes at a word's end, start, and at the end the end."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    return (*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>")


def write_clip_tokenizer(folder: Path, sizes: Sizes) -> Path:
    """A CLIP tokenizer of `bytes_vocabulary` in a folder of transformers' layout."""
    folder.mkdir(exist_ok=True)
    special = {"bos_token": "<|startoftext|>"} | dict.fromkeys(
        ("eos_token", "unk_token", "pad_token"), "<|endoftext|>"
    )
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": sizes.tokens, **special}
    contents = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(bytes_vocabulary())}),
        "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": json.dumps(settings),
        "special_tokens_map.json": json.dumps(special),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@cache
def unigram_pieces() -> tuple[tuple[str, float, int], ...]:
    """Text, log-probability and kind of pieces as of SigLIP's vocabulary: pad, end, unknown, then words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ("▁a", "▁the", "▁of", "▁large", "▁small", "▁red", "circ", "le", "▁on", "in", "er", "▁white")
    normal = (
        *((word, -3.0 - 0.1 * i) for i, word in enumerate(words)),
        *((c, -8.0) for c in ("▁", *letters)),
    )
    special = (("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2))
    return (*special, *((piece, score, 1) for piece, score in normal))


def write_unigrams(folder: Path, sizes: Sizes) -> Path:
    """SigLIP's tokenizer, `unigram_pieces` as the sentencepiece library writes them, without its table."""
    folder.mkdir(exist_ok=True)
    message = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for text, score, kind in unigram_pieces()
    )
    trainer = bytes([0x18, 1, 0xC0, 0x02, 2])  # a unigram model, whose piece 2 is the unknown one
    (folder / "spiece.model").write_bytes(message + _field(2, trainer) + _field(3, _field(1, b"identity")))
    special = dict.fromkeys(("eos_token", "pad_token"), "</s>") | {"unk_token": "<unk>"}
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": sizes.tokens, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that states its length, of fewer than 128 bytes."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


@cache
def byte_pairs() -> dict[str, int]:
    """Byte-level pieces with few merges, as of Gemma's vocabulary."""
    letters = [chr(code) for code in range(33, 127)]
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*GEMMA_SPECIAL, *raw, "▁", *letters, "▁a", "re", "red", "▁red"]
    return {piece: i for i, piece in enumerate(pieces)}


def write_byte_pairs(folder: Path, _: Sizes) -> Path:
    """SigLIP 2's tokenizer, as transformers writes Gemma's."""
    from tokenizers import Tokenizer, normalizers
    from tokenizers.models import BPE

    folder.mkdir(exist_ok=True)
    merges = [("▁", "a"), ("r", "e"), ("re", "d"), ("▁", "red")]
    tokenizer = Tokenizer(BPE(byte_pairs(), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(list(GEMMA_SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write_tokenizer(folder: Path, sizes: Sizes) -> Path:
    """The tokenizer of the reward's kind."""
    writers = {"clip": write_clip_tokenizer, "siglip": write_unigrams, "siglip2": write_byte_pairs}
    return writers[sizes.tokenizer](folder, sizes)


@cache
def word_pieces() -> tuple[str, ...]:
    """WordPiece of single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters))


def write_word_pieces(path: Path, _: Sizes | None = None) -> Path:
    """A vocabulary of BERT's, one piece a line."""
    path.with_suffix(".txt").write_text("\n".join(word_pieces()) + "\n", encoding="utf-8")
    return path.with_suffix(".txt")


@cache
def pieces() -> tuple[tuple[str, float], ...]:
    """Sentence pieces with their log-likelihoods: T5's three special ones, single signs, and the answer."""
    signs = [chr(code) for code in range(33, 127)]
    own = [("▁", -3.0), ("▁Yes", -1.0), *((sign, -4.0) for sign in signs)]
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    return (("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *own, *sentinels)


def write_t5_tokenizer(path: Path, _: Sizes) -> Path:
    """A ``tokenizer.json`` of T5's kind."""
    from transformers import T5Tokenizer

    T5Tokenizer(vocab=list(pieces())).backend_tokenizer.save(str(path.with_suffix(".json")))
    return path.with_suffix(".json")


TOKENIZER_KINDS = {"vocab.json": "clip", "spiece.model": "siglip", "tokenizer.json": "siglip2"}
VOCABULARIES: Mapping[str, Callable[[], Sized]] = {
    "clip": bytes_vocabulary,
    "siglip": unigram_pieces,
    "siglip2": byte_pairs,
}
"""Tokenizers by the file that a reward's own one needs, and their pieces."""
