"""A unigram model of the sentencepiece library, read from its file without that library.

The file is a protocol buffer (sentencepiece_model.proto of google/sentencepiece). Read of it are the pieces
with their scores, the kind of the model and the table that normalises text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tcbench.errors import MismatchError

SPACE = "▁"
"""What stands for a space within a piece."""

MODEL_PIECE, MODEL_TRAINER, MODEL_NORMALISER = 1, 2, 3
PIECE_TEXT, PIECE_SCORE, PIECE_KIND = 1, 2, 3
TRAINER_KIND, NORMALISER_TABLE = 3, 2
"""Numbers of fields, by their message."""

UNIGRAM, UNKNOWN = 1, 2
"""Kinds of a model and of a piece."""


def unigram_tokenizer(path: Path, end: str) -> Any:
    """A `tokenizers.Tokenizer` that cuts text as the model in the file does and puts the piece ``end`` last.

    Text is to come with `SPACE` before it, as sentencepiece puts it there by itself. Raises `MismatchError`.
    """
    from tokenizers import Regex, Tokenizer, normalizers
    from tokenizers.models import Unigram
    from tokenizers.processors import TemplateProcessing

    pieces, unknown, table = _read(path)
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    if end not in ids:
        raise MismatchError(f"{path} has no piece {end!r}; expected the published vocabulary")
    tokenizer = Tokenizer(Unigram(pieces, unk_id=unknown))
    steps: list[Any] = [normalizers.Precompiled(table)] if table else []
    steps += [
        normalizers.Replace(Regex(" {2,}"), " "),
        normalizers.Replace(" ", SPACE),
        normalizers.Replace(Regex(f"{SPACE}+$"), ""),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, ids[end])])
    return tokenizer


def _read(path: Path) -> tuple[list[tuple[str, float]], int, bytes]:
    """Pieces with their scores, the number of the unknown one, the table of the normaliser."""
    pieces, kinds, model_kind, table = [], [], UNIGRAM, b""
    try:
        for field, value in _fields(path.read_bytes()):
            inner = dict(_fields(value)) if isinstance(value, bytes) else {}
            if field == MODEL_PIECE:
                (score,) = struct.unpack("<f", inner.get(PIECE_SCORE, b"\0" * 4))
                pieces.append((inner[PIECE_TEXT].decode(), score))
                kinds.append(inner.get(PIECE_KIND, 1))
            elif field == MODEL_TRAINER:
                model_kind = inner.get(TRAINER_KIND, UNIGRAM)
            elif field == MODEL_NORMALISER:
                table = inner.get(NORMALISER_TABLE, b"")
        unknown = kinds.index(UNKNOWN)
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise MismatchError(f"{path} cannot be read as a sentencepiece model; fetch it again") from error
    if model_kind != UNIGRAM:
        raise MismatchError(f"{path} is no unigram model of sentencepiece, the only kind that is read here")
    return pieces, unknown, table


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer's message: an int, or bytes still to be read."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        if tag & 7 == 0:
            value, at = _number(message, at)
            yield tag >> 3, value
            continue
        sizes = {1: 8, 5: 4}  # fixed 64 and 32 bits; the rest states its length
        size, at = (sizes[tag & 7], at) if tag & 7 in sizes else _number(message, at)
        if at + size > len(message) or tag & 7 not in (1, 2, 5):
            raise ValueError("torn message")
        yield tag >> 3, message[at : at + size]
        at += size


def _number(message: bytes, at: int) -> tuple[int, int]:
    """The number of variable length at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
