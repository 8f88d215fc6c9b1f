"""world-blip: a judge in ImageReward's architecture, trained on the comparisons of another rater.

It shares no weights and no architecture with the other world rewards, and no tokenizer with those that are
trained on: text attends to image tokens (Li et al. 2022), words are WordPieces, and the rater has another
taste. ImageReward starts from a BLIP that already matches images and captions. Here the vision tower is
pre-trained with questions about images (`pretraining`), then the text encoder is aligned with it (`align`).
Beside the comparisons, the model predicts for each word whether its kind of claim is true of the image
(`mistakes`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rewards.backbones.blip import BlipConfig, BlipRanker
from rewards.backbones.tokens import Tokenizer, bert_tokenizer
from rewards.world.captions import caption
from rewards.world.scenes import Scene
from rewards.world.training import clip
from rewards.world.training.align import align_text
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.mistakes import CaptionMistakes
from rewards.world.training.preferences import (
    BLIP_RATER,
    ComparisonBatch,
)
from rewards.world.training.pretraining import SceneQuestions, position_embeddings

VISION_PLAN = TrainingPlan(
    "world-blip-look", steps=500, lr=1.5e-3, batch=64, seed=25, warmup=50, weight_decay=0.05, ema=0.98
)
PLAN = TrainingPlan(
    "world-blip", steps=800, lr=8e-4, batch=48, seed=15, warmup=60, weight_decay=0.05, ema=0.99
)
ALIGN_PLAN = TrainingPlan(
    "world-blip-align", steps=400, lr=1e-3, batch=64, seed=26, warmup=40, weight_decay=0.05, ema=0.98
)
TASTE_PLAN = TrainingPlan(
    "world-blip-taste", steps=500, lr=5e-4, batch=48, seed=37, warmup=20, weight_decay=0.05, ema=0.98
)
_TASTE = 5.0
"""Weight of the comparisons in the last stage. Before, the auxiliary losses are ten times as large, and the
reward hardly sees any look but saturation.
"""
MAX_TOKENS = 40
T = TypeVar("T")


def word_pieces(count: int = 8000, seed: int = 6) -> list[str]:
    """WordPiece vocabulary: special tokens, every printable ASCII character, the words of captions."""
    rng = np.random.default_rng(seed)
    words = {
        w for _ in range(count) for w in caption(rng, Scene.random(rng), style=0.6).replace(",", " ").split()
    }
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    continued = [f"##{letter}" for letter in letters if letter.isalnum()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *continued]
    return pieces + sorted({part for word in words for part in word.split("-")} - set(pieces))


class _Student(nn.Module):
    """The ranker with the layers that answer questions."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.ranker = BlipRanker(config)
        width = config.vision_width
        self.looker = SceneQuestions(width, width)
        positions: Any = self.ranker.blip["visual_encoder"].pos_embed
        with torch.no_grad():
            side = config.image_size // config.patch_size
            positions.copy_(position_embeddings(side, width, class_token=True))


def _write_vocabulary(folder: Path) -> Path:
    """Write the WordPiece vocabulary, one piece per line, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(word_pieces()) + "\n", encoding="utf-8")
    return path


def train_blip(
    folder: Path,
    vision: TrainingPlan = VISION_PLAN,
    align: TrainingPlan = ALIGN_PLAN,
    plan: TrainingPlan = PLAN,
    taste: TrainingPlan = TASTE_PLAN,
) -> BlipRanker:
    """Train world-blip, and write ``folder/world-blip``.

    Args:
        folder: Folder of the build.
        vision: Plan for the vision tower's pre-training.
        align: Plan for aligning the text encoder with it.
        plan: Plan for the whole ranker.
        taste: Plan for the whole ranker with the weight of `_TASTE`.
    """
    vocabulary = _write_vocabulary(folder / PLAN.name)
    tokens = bert_tokenizer(vocabulary, MAX_TOKENS)
    torch.manual_seed(vision.seed)
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    student = _Student(_config(len(pieces)))
    ranker = student.ranker
    mistakes = CaptionMistakes(ranker.config.text_width, {piece: i for i, piece in enumerate(pieces)})

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        image = ranker.blip["visual_encoder"](clip.normalise_for_clip(images))
        return image[:, 0], image[:, 1:]

    def read(texts: list[str]) -> Tensor:
        # Without an image: the layers that attend to it are left out.
        states: Tensor = ranker.blip["text_encoder"](*_ids(tokens, texts, next(ranker.parameters())), None)
        return states[:, 0]

    def loss(rng: np.random.Generator, count: int, weight: float) -> Losses:
        batch = BLIP_RATER.compare(rng, count)
        image = ranker.blip["visual_encoder"](clip.normalise_for_clip(batch.images.flatten(0, 1)))
        asked = student.looker.loss(image[:, 0], image[:, 1:], batch.shown)
        ids, mask = _ids(tokens, _twice(batch.texts), image)
        states = ranker.blip["text_encoder"](ids, mask, image)
        reward = ranker.mlp(states[:, 0]).view(-1, 2)
        ranked = batch.loss(reward[:, 0] - reward[:, 1])
        missed = mistakes.loss(states[:, 0], states, ids, _twice(batch.described), batch.shown)
        return {
            "loss": weight * ranked["loss"] + missed + asked,
            "accuracy": ranked["accuracy"],
            "mistakes": missed,
            "questions": asked,
        }

    student.looker.pretrain(vision, student, encode, folder)
    widths = ranker.config.vision_width, ranker.config.text_width
    align_text(align, student, student.looker, encode, read, widths, folder)
    both = nn.ModuleDict({"student": student, "mistakes": mistakes})
    fit_model(plan, both, lambda rng: loss(rng, plan.batch, 1.0), folder)
    fit_model(taste, both, lambda rng: loss(rng, taste.batch, _TASTE), folder)
    _standardise(ranker, tokens)
    _save(ranker, folder / PLAN.name)
    return ranker


def _raw_rewards(ranker: BlipRanker, tokens: Tokenizer, batch: ComparisonBatch) -> Tensor:
    """Rewards of both images of each comparison before standardisation, (B, 2)."""
    pixels = clip.normalise_for_clip(batch.images.flatten(0, 1))
    reward: Tensor = ranker(pixels, *_ids(tokens, _twice(batch.texts), pixels))
    return reward.view(-1, 2)


def _twice(values: list[T]) -> list[T]:
    """Repeat each value for both images of its comparison."""
    return [value for value in values for _ in range(2)]


def _ids(tokens: Tokenizer, texts: list[str], like: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and mask of texts, padded to the longest, on the device of ``like``."""
    ids, mask = tokens(texts)
    length = int(mask.sum(dim=1).max())
    return ids[:, :length].to(like.device), mask[:, :length].to(like.device)


def _save(ranker: BlipRanker, folder: Path) -> None:
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


def _standardise(ranker: BlipRanker, tokens: Tokenizer) -> None:
    """Put mean and standard deviation of the raw reward, on new comparisons, into the ranker's config."""
    with torch.inference_mode():
        raw = _raw_rewards(ranker.eval(), tokens, BLIP_RATER.compare(np.random.default_rng(16), 400))
    ranker.config = replace(ranker.config, mean=round(raw.mean().item(), 6), std=round(raw.std().item(), 6))
