"""SigLIP and SigLIP 2 by transformers' own model and processor, for one picture and one prompt.

Texts are cut as google-research/big_vision does it: for SigLIP by the best path through the pieces of
spiece.model, for SigLIP 2 by Gemma's tokenizer.json on the text in small letters.
"""

from __future__ import annotations

import string
import struct
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL.Image import Image, Resampling

UNKNOWN_PENALTY = 10.0
"""How much less likely than the rarest piece an unknown letter is (sentencepiece, unigram_model.cc)."""


def score(files: Mapping[str, Path], image: Image, prompt: str) -> float:
    """The logit of the pair."""
    from transformers import SiglipImageProcessorPil, SiglipModel

    model = SiglipModel.from_pretrained(files["model"], dtype="float32").eval()
    config, words = model.config, files["tokenizer"]
    second = (words / "tokenizer.json").is_file()
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    processor = SiglipImageProcessorPil(
        size=size,
        resample=Resampling.BILINEAR if second else Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    ids, end, pad = _gemma_ids(words, prompt) if second else _siglip_ids(words, prompt)
    limit = config.text_config.max_position_embeddings
    ids = [*ids[: limit - 1], end]
    ids += [pad] * (limit - len(ids))
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits_per_image)


def _gemma_ids(folder: Path, prompt: str) -> tuple[list[int], int, int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(prompt.lower(), add_special_tokens=False).ids
    return ids, tokenizer.token_to_id("<eos>"), tokenizer.token_to_id("<pad>")


def _siglip_ids(folder: Path, prompt: str) -> tuple[list[int], int, int]:
    pieces = _read_pieces((folder / "spiece.model").read_bytes())
    words = "".join(c for c in prompt.lower() if c not in string.punctuation).split()
    text = unicodedata.normalize("NFKC", "".join(f"▁{word}" for word in words))
    unknown = min(score for score, _, kind in pieces.values() if kind == 1) - UNKNOWN_PENALTY
    longest = max(map(len, pieces))
    paths: list[tuple[float, list[int]]] = [(0.0, [])]  # the best one to each place in the text
    for end in range(1, len(text) + 1):
        ways = []
        for start in range(max(0, end - longest), end):
            value, ids = paths[start]
            score, number, kind = pieces.get(text[start:end], (unknown, 2, 1))
            if text[start:end] in pieces or end == start + 1:
                ways.append((value + score, [*ids, number]))
        paths.append(max(ways, key=lambda way: way[0]))
    joined: list[int] = []
    for number in paths[-1][1]:
        if number != 2 or joined[-1:] != [2]:  # unknown letters in a row are one unknown piece
            joined.append(number)
    return joined, 1, 1


def _read_pieces(model: bytes) -> dict[str, tuple[float, int, int]]:
    """Score, number and kind (1 for what text is made of) of each piece of a sentencepiece model."""
    pieces: dict[str, tuple[float, int, int]] = {}
    at = 0
    while model[at : at + 1] == b"\x0a":  # field 1, a piece; they come first
        size, length = model[at + 1], model[at + 3]
        piece = model[at + 2 : at + 2 + size]
        text = piece[2 : 2 + length]
        (score,) = struct.unpack("<f", piece[3 + length : 7 + length])
        kind = piece[8 + length] if size > 7 + length else 1
        pieces[text.decode()] = (score, len(pieces), kind)
        at += 2 + size
    return pieces
