"""world-blip: a judge of another kind, in ImageReward's architecture, trained on comparisons of its own.

It shares neither weights nor architecture nor tokenizer with the other world rewards: text attends to image
tokens (Li et al. 2022), words are WordPieces, and the rater has another taste. ImageReward starts from a
BLIP that can match pictures and captions already; here that is learnt beside the comparisons, as ranking the
true caption of a picture above a false one, and by questions about the picture (see
`looking`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rewards.blip import BlipConfig, BlipRanker
from rewards.tokens import Tokenizer, bert_tokenizer
from rewards.world import clip, data
from rewards.world.captions import caption
from rewards.world.clip import STYLE
from rewards.world.fit import Losses, Plan, fit
from rewards.world.looking import Looker, after_class_token
from rewards.world.preferences import BLIP_RATER, Comparison, bradley_terry, comparisons
from rewards.world.scenes import random_scene

PLAN = Plan("world-blip", steps=600, lr=8e-4, batch=48, seed=15, warmup=60, weight_decay=0.05, ema=0.99)
MAX_TOKENS = 40


def word_pieces(count: int = 8000, seed: int = 6) -> list[str]:
    """A WordPiece vocabulary: special tokens, every printable ASCII character, the words of the captions."""
    rng = np.random.default_rng(seed)
    words = {
        w for _ in range(count) for w in caption(rng, random_scene(rng), style=0.6).replace(",", " ").split()
    }
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    continued = [f"##{letter}" for letter in letters if letter.isalnum()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *continued]
    return pieces + sorted({part for word in words for part in word.split("-")} - set(pieces))


class _Student(nn.Module):
    """The ranker with the questions that teach it to see."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.ranker = BlipRanker(config)
        width = config.vision_width
        self.looker = Looker(width, width)
        positions: Any = self.ranker.blip["visual_encoder"].pos_embed
        with torch.no_grad():
            positions.copy_(after_class_token(config.image_size // config.patch_size, width))


def write_vocabulary(folder: Path) -> Path:
    """Write the WordPiece vocabulary, one piece a line, and name the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(word_pieces()) + "\n", encoding="utf-8")
    return path


def train(vocabulary: Path, folder: Path, plan: Plan = PLAN) -> BlipRanker:
    """Train world-blip, resuming from ``folder``."""
    tokens = bert_tokenizer(vocabulary, MAX_TOKENS)
    torch.manual_seed(plan.seed)
    student = _Student(_config(len(vocabulary.read_text(encoding="utf-8").splitlines())))

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch)
        seen = clip.normalise(data.soften(rng, data.pictures(rng, scenes)))
        image = student.ranker.blip["visual_encoder"](seen)
        asked = student.looker.loss(image[:, 0], image[:, 1:], scenes)
        texts = data.captions(rng, scenes, STYLE) + data.false_captions(rng, scenes, STYLE, data.HARD)
        true, false = student.ranker.judge(image.repeat(2, 1, 1), *_ids(tokens, texts, image)).chunk(2)
        matched = bradley_terry(true - false, torch.ones_like(true))
        batch = comparisons(rng, plan.batch, BLIP_RATER)
        reward = rewards_of(student.ranker, tokens, batch)
        ranked = bradley_terry(reward[:, 0] - reward[:, 1], batch.first)
        return {
            "loss": ranked["loss"] + matched["loss"] + asked,
            "accuracy": ranked["accuracy"],
            "matching": matched["accuracy"],
            "questions": asked,
        }

    fit(plan, student, loss, folder)
    return _standardised(student.ranker, tokens)


def rewards_of(ranker: BlipRanker, tokens: Tokenizer, batch: Comparison) -> Tensor:
    """Raw rewards of the two pictures of each comparison, (B, 2)."""
    pixels = clip.normalise(batch.images.flatten(0, 1))
    reward: Tensor = ranker(pixels, *_ids(tokens, [text for text in batch.texts for _ in range(2)], pixels))
    return reward.view(-1, 2)


def _ids(tokens: Tokenizer, texts: list[str], like: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and mask of texts, no longer than the longest, on the device of ``like``."""
    ids, mask = tokens(texts)
    length = int(mask.sum(dim=1).max())
    return ids[:, :length].to(like.device), mask[:, :length].to(like.device)


def save(ranker: BlipRanker, folder: Path) -> None:
    """Write config.json and float16 weights beside the vocabulary."""
    (folder / "config.json").write_text(json.dumps(asdict(ranker.config), indent=1) + "\n", encoding="utf-8")
    half = {k: v.half().contiguous() for k, v in ranker.state_dict().items()}
    save_file(half, folder / "model.safetensors")


def _config(vocab_size: int) -> BlipConfig:
    return BlipConfig(
        image_size=64,
        patch_size=8,
        vision_width=96,
        vision_layers=4,
        vision_heads=4,
        text_width=96,
        text_layers=3,
        text_heads=4,
        vocab_size=vocab_size,
        max_positions=64,
        max_tokens=MAX_TOKENS,
    )


def _standardised(ranker: BlipRanker, tokens: Tokenizer) -> BlipRanker:
    """The ranker with its raw reward's mean and deviation on fresh training comparisons in its config."""
    with torch.inference_mode():
        raw = rewards_of(ranker.eval(), tokens, comparisons(np.random.default_rng(16), 400, BLIP_RATER))
    ranker.config = replace(ranker.config, mean=round(raw.mean().item(), 6), std=round(raw.std().item(), 6))
    return ranker
