"""Tiny vocabularies of every kind of tokenizer, in the file formats of the real ones, and OpenAI's own.

The tiny ones are written here because a test must not download the real ones. Each holds single letters, so
that every text can be encoded, and a few longer pieces, so that merging is exercised too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sized
from functools import cache
from pathlib import Path

_GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
"""Piece types of sentencepiece (sentencepiece_model.proto, ModelProto.SentencePiece.Type)."""


def vocabulary(kind: str) -> Sized:
    """Return the pieces of a tokenizer of ``kind``, a key of `KINDS`."""
    return KINDS[kind][0]()


def write_tiny_tokenizer(kind: str, path: Path, max_tokens: int) -> Path:
    """Write a tokenizer.

    Args:
        kind: "clip", "siglip", "siglip2", "bert" or "t5".
        path: Folder to write, or for "bert" and "t5" a file that gets the usual suffix.
        max_tokens: Text context length that the tokenizer's configuration states.

    Returns:
        The path with its suffix.
    """
    return KINDS[kind][1](path, max_tokens)


def write_openai_tokenizer(folder: Path) -> Path:
    """Write the tokenizer of OpenAI's CLIP in transformers' layout; open_clip ships its vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer

    words, renamed = (
        SimpleTokenizer(),
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"},
    )
    merges = "".join(f"{left} {right}\n" for left, right in words.bpe_ranks)
    contents = {
        "vocab.json": json.dumps({renamed.get(word, word): i for word, i in words.encoder.items()}),
        "merges.txt": f"#version: 0.2\n{merges}",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer"}),
        "special_tokens_map.json": json.dumps(
            {"bos_token": "<|startoftext|>"}
            | dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@cache
def _clip_vocabulary() -> tuple[str, ...]:
    """Byte-level BPE without merges: all bytes, all bytes at the end of a word, start and end of text."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    return (*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>")


def _write_clip(folder: Path, max_tokens: int) -> Path:
    folder.mkdir(exist_ok=True)
    special = {"bos_token": "<|startoftext|>"} | dict.fromkeys(
        ("eos_token", "unk_token", "pad_token"), "<|endoftext|>"
    )
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_tokens, **special}
    contents = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(_clip_vocabulary())}),
        "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": json.dumps(settings),
        "special_tokens_map.json": json.dumps(special),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@cache
def _siglip_vocabulary() -> tuple[tuple[str, float, int], ...]:
    """SigLIP's kind of pieces: (text, log-probability, type); padding, end and unknown come first."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ("▁a", "▁the", "▁of", "▁large", "▁small", "▁red", "circ", "le", "▁on", "in", "er", "▁white")
    normal = (
        *((word, -3.0 - 0.1 * i) for i, word in enumerate(words)),
        *((c, -8.0) for c in ("▁", *letters)),
    )
    special = (("<pad>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL), ("<unk>", 0.0, _UNKNOWN))
    return (*special, *((piece, score, _NORMAL) for piece, score in normal))


def _write_siglip(folder: Path, max_tokens: int) -> Path:
    """Write ``spiece.model`` byte by byte: the sentencepiece library can train a model, but not build one."""
    folder.mkdir(exist_ok=True)
    message = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for text, score, kind in _siglip_vocabulary()
    )
    # model_type = UNIGRAM (field 3) and unk_id = 2 (field 40) of the trainer's specification
    trainer = bytes([0x18, 1, 0xC0, 0x02, 2])
    (folder / "spiece.model").write_bytes(message + _field(2, trainer) + _field(3, _field(1, b"identity")))
    special = dict.fromkeys(("eos_token", "pad_token"), "</s>") | {"unk_token": "<unk>"}
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": max_tokens, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited protocol buffer field of fewer than 128 bytes, whose length is one byte."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


@cache
def _siglip2_vocabulary() -> dict[str, int]:
    """Gemma's kind of pieces: BPE with byte fallback and a few merges."""
    letters = [chr(code) for code in range(33, 127)]
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*_GEMMA_SPECIAL, *raw, "▁", *letters, "▁a", "re", "red", "▁red"]
    return {piece: i for i, piece in enumerate(pieces)}


def _write_siglip2(folder: Path, _: int) -> Path:
    from tokenizers import Tokenizer, normalizers
    from tokenizers.models import BPE

    folder.mkdir(exist_ok=True)
    merges = [("▁", "a"), ("r", "e"), ("re", "d"), ("▁", "red")]
    model = BPE(_siglip2_vocabulary(), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(list(_GEMMA_SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@cache
def _bert_vocabulary() -> tuple[str, ...]:
    """WordPiece of single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters))


def _write_bert(path: Path, _: int) -> Path:
    path.with_suffix(".txt").write_text("\n".join(_bert_vocabulary()) + "\n", encoding="utf-8")
    return path.with_suffix(".txt")


@cache
def _t5_vocabulary() -> tuple[tuple[str, float], ...]:
    """T5's kind of pieces: (text, log-probability); special ones, single characters, the answer "Yes"."""
    characters = [chr(code) for code in range(33, 127)]
    pieces = [("▁", -3.0), ("▁Yes", -1.0), *((character, -4.0) for character in characters)]
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    return (("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, *sentinels)


def _write_t5(path: Path, _: int) -> Path:
    from transformers import T5Tokenizer

    T5Tokenizer(vocab=list(_t5_vocabulary())).backend_tokenizer.save(str(path.with_suffix(".json")))
    return path.with_suffix(".json")


KINDS: Mapping[str, tuple[Callable[[], Sized], Callable[[Path, int], Path]]] = {
    "clip": (_clip_vocabulary, _write_clip),
    "siglip": (_siglip_vocabulary, _write_siglip),
    "siglip2": (_siglip2_vocabulary, _write_siglip2),
    "bert": (_bert_vocabulary, _write_bert),
    "t5": (_t5_vocabulary, _write_t5),
}
"""By kind of tokenizer: its pieces, and the function that writes it."""
