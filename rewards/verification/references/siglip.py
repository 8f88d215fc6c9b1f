"""SigLIP and SigLIP 2 by transformers' own models and image processor, with the tokenizers written out.

Official code: google-research/big_vision (pp/ops_text.py). SigLIP splits texts into the most likely sequence
of pieces of ``spiece.model``; SigLIP 2 uses Gemma's ``tokenizer.json`` on the lower-cased text.
"""

from __future__ import annotations

import string
import struct
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL.Image import Image, Resampling

_NORMAL = 1
"""Type of the pieces that text is made of (sentencepiece_model.proto)."""
_UNKNOWN = 2
"""Id of the unknown piece in SigLIP's vocabulary."""
_UNKNOWN_PENALTY = 10.0
"""Log-probability that an unknown character lies below the rarest piece (unigram_model.cc, kUnkPenalty)."""


def score(files: Mapping[str, Path], image: Image, prompt: str) -> float:
    """Return the logit of the pair: cosine times scale, plus bias."""
    from transformers import SiglipImageProcessorPil, SiglipModel

    model = SiglipModel.from_pretrained(files["model"], dtype="float32").eval()
    config, tokenizer = model.config, files["tokenizer"]
    is_siglip2 = (tokenizer / "tokenizer.json").is_file()
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    processor = SiglipImageProcessorPil(
        size=size,
        resample=Resampling.BILINEAR if is_siglip2 else Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    ids = _ids(tokenizer, prompt, config.text_config.max_position_embeddings)
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits_per_image)


def _ids(folder: Path, prompt: str, limit: int) -> list[int]:
    """Return exactly ``limit`` ids: the models were trained on padded texts and have no attention mask.

    The SigLIP of the embedded world has CLIP's kind of tokenizer.
    """
    from tokenizers import Tokenizer
    from transformers import CLIPTokenizer

    if (folder / "vocab.json").is_file():
        clip = CLIPTokenizer.from_pretrained(folder)
        ids = clip(prompt, padding="max_length", truncation=True, max_length=limit)["input_ids"]
        return list(ids)
    if (folder / "tokenizer.json").is_file():
        gemma = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = gemma.encode(prompt.lower(), add_special_tokens=False).ids
        end, pad = (gemma.get_vocab()[token] for token in ("<eos>", "<pad>"))
    else:
        ids, end, pad = _siglip_ids(folder, prompt), 1, 1  # SigLIP pads with the end token
    kept = [*ids[: limit - 1], end]
    return kept + [pad] * (limit - len(kept))


def _siglip_ids(folder: Path, prompt: str) -> list[int]:
    """Return the ids of the most likely split into pieces (Viterbi over all splits).

    The text is lower-cased, punctuation is removed, and "▁" marks the start of each word.
    """
    pieces = _read_pieces((folder / "spiece.model").read_bytes())
    words = "".join(c for c in prompt.lower() if c not in string.punctuation).split()
    text = unicodedata.normalize("NFKC", "".join(f"▁{word}" for word in words))
    unknown = min(value for value, _, kind in pieces.values() if kind == _NORMAL) - _UNKNOWN_PENALTY
    longest = max(map(len, pieces))
    best: list[tuple[float, list[int]]] = [(0.0, [])]  # best split of text[:end]: log-probability, ids
    for end in range(1, len(text) + 1):
        splits = []
        for start in range(max(0, end - longest), end):
            value, number, _ = pieces.get(text[start:end], (unknown, _UNKNOWN, _NORMAL))
            if number != _UNKNOWN or end == start + 1:
                splits.append((best[start][0] + value, [*best[start][1], number]))
        best.append(max(splits, key=lambda split: split[0]))
    joined: list[int] = []
    for number in best[-1][1]:
        # sentencepiece merges a run of unknown characters into one unknown piece.
        if number != _UNKNOWN or joined[-1:] != [_UNKNOWN]:
            joined.append(number)
    return joined


def _read_pieces(model: bytes) -> dict[str, tuple[float, int, int]]:
    """Read a sentencepiece model: (log-probability, id, type) by piece.

    The protocol buffer is read by hand, so that the library of the reward's tokenizer takes no part. Pieces
    are field 1 and come first; of a piece, text is field 1, log-probability field 2 and type field 3.
    """
    pieces: dict[str, tuple[float, int, int]] = {}
    at = 0
    while model[at : at + 1] == b"\x0a":  # field 1, length-delimited
        size, length = model[at + 1], model[at + 3]
        piece = model[at + 2 : at + 2 + size]
        text = piece[2 : 2 + length]
        (score,) = struct.unpack("<f", piece[3 + length : 7 + length])
        kind = piece[8 + length] if size > 7 + length else _NORMAL  # the default is not stored
        pieces[text.decode()] = (score, len(pieces), kind)
        at += 2 + size
    return pieces
