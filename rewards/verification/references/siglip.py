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

NORMAL, UNKNOWN = 1, 2
"""Kind of the pieces that text is made of, number of the unknown one."""

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
    ids = _ids(words, prompt, config.text_config.max_position_embeddings)
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits_per_image)


def _ids(folder: Path, prompt: str, limit: int) -> list[int]:
    """Numbers of ``limit`` tokens; the small world's SigLIP reads CLIP's."""
    from tokenizers import Tokenizer
    from transformers import CLIPTokenizer

    if (folder / "vocab.json").is_file():
        words = CLIPTokenizer.from_pretrained(folder)
        ids = words(prompt, padding="max_length", truncation=True, max_length=limit)["input_ids"]
        return list(ids)
    if (folder / "tokenizer.json").is_file():
        gemma = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = gemma.encode(prompt.lower(), add_special_tokens=False).ids
        end, pad = (gemma.get_vocab()[word] for word in ("<eos>", "<pad>"))
    else:
        ids, end, pad = _siglip_ids(folder, prompt), 1, 1
    kept = [*ids[: limit - 1], end]
    return kept + [pad] * (limit - len(kept))


def _siglip_ids(folder: Path, prompt: str) -> list[int]:
    """The likeliest pieces of the text without capitals and punctuation, a mark before each word."""
    pieces = _read_pieces((folder / "spiece.model").read_bytes())
    words = "".join(c for c in prompt.lower() if c not in string.punctuation).split()
    text = unicodedata.normalize("NFKC", "".join(f"▁{word}" for word in words))
    unknown = min(value for value, _, kind in pieces.values() if kind == NORMAL) - UNKNOWN_PENALTY
    longest = max(map(len, pieces))
    paths: list[tuple[float, list[int]]] = [(0.0, [])]  # the best one to each place in the text
    for end in range(1, len(text) + 1):
        ways = []
        for start in range(max(0, end - longest), end):
            value, number, _ = pieces.get(text[start:end], (unknown, UNKNOWN, NORMAL))
            if number != UNKNOWN or end == start + 1:
                ways.append((paths[start][0] + value, [*paths[start][1], number]))
        paths.append(max(ways, key=lambda way: way[0]))
    joined: list[int] = []
    for number in paths[-1][1]:
        if number != UNKNOWN or joined[-1:] != [UNKNOWN]:  # unknown letters in a row are one piece
            joined.append(number)
    return joined


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
