"""world-blip: a judge in ImageReward's architecture, trained on the comparisons of another rater.

It shares no weights, architecture or tokenizer with the other world rewards: text attends to image tokens
(Li et al. 2022), words are WordPieces, and the rater has another taste. ImageReward starts from a BLIP that
already matches images and captions. Here the vision tower is pre-trained with questions about images
(`pretraining`), then the text encoder is aligned with it. Beside the comparisons, the model predicts for each
word whether it is true of the image: without that loss it ignored the caption for 29,000 comparisons, with it
captions had an effect after 9,000.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.backbones.blip import BlipConfig, BlipRanker
from rewards.backbones.tokens import Tokenizer, bert_tokenizer
from rewards.world.captions import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    POSITION_PHRASES,
    RELATION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    caption,
)
from rewards.world.scenes import Scene
from rewards.world.training import clip, data
from rewards.world.training.clip import STYLE, contrastive_loss
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.preferences import (
    BLIP_RATER,
    ComparisonBatch,
)
from rewards.world.training.pretraining import (
    QUESTIONS,
    WEIGHT,
    SceneQuestions,
    position_embeddings,
)

VISION_PLAN = TrainingPlan(
    "world-blip-look", steps=500, lr=1.5e-3, batch=64, seed=25, warmup=50, weight_decay=0.05, ema=0.98
)
PLAN = TrainingPlan(
    "world-blip", steps=800, lr=8e-4, batch=48, seed=15, warmup=60, weight_decay=0.05, ema=0.99
)
T = TypeVar("T")

ALIGN_PLAN = TrainingPlan(
    "world-blip-align", steps=400, lr=1e-3, batch=64, seed=26, warmup=40, weight_decay=0.05, ema=0.98
)
_ALIGNED_WIDTH = 96
"""Width of the projections in which images and texts are aligned."""

MAX_TOKENS = 40

_EMPTY_WORDS = frozenset(("in", "the", "on", "at", "to", "of", "side", "corner"))
"""Words in phrases for positions that do not name one by themselves."""

KINDS = ("shape", "colour", "size", "background", "position")
"""Kinds of claims of a caption that can be wrong."""


def _word_pieces(count: int = 8000, seed: int = 6) -> list[str]:
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
    """The ranker with the layers of its auxiliary losses."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.ranker = BlipRanker(config)
        width = config.vision_width
        self.looker = SceneQuestions(width, width)
        self.misses = nn.Linear(config.text_width, len(KINDS))
        positions: Any = self.ranker.blip["visual_encoder"].pos_embed
        with torch.no_grad():
            side = config.image_size // config.patch_size
            positions.copy_(position_embeddings(side, width, class_token=True))


def _write_vocabulary(folder: Path) -> Path:
    """Write the WordPiece vocabulary, one piece per line, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(_word_pieces()) + "\n", encoding="utf-8")
    return path


def train_blip(
    folder: Path,
    vision: TrainingPlan = VISION_PLAN,
    align: TrainingPlan = ALIGN_PLAN,
    plan: TrainingPlan = PLAN,
) -> BlipRanker:
    """Train world-blip, and write ``folder/world-blip``.

    Args:
        folder: Folder of the build.
        vision: Plan for the vision tower's pre-training.
        align: Plan for aligning the text encoder with it.
        plan: Plan for the whole ranker.
    """
    vocabulary = _write_vocabulary(folder / PLAN.name)
    tokens = bert_tokenizer(vocabulary, MAX_TOKENS)
    torch.manual_seed(vision.seed)
    student = _Student(_config(len(vocabulary.read_text(encoding="utf-8").splitlines())))
    ranker = student.ranker

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        image = ranker.blip["visual_encoder"](clip.normalise_for_clip(images))
        return image[:, 0], image[:, 1:]

    def loss(rng: np.random.Generator) -> Losses:
        batch = BLIP_RATER.compare(rng, plan.batch)
        image = ranker.blip["visual_encoder"](clip.normalise_for_clip(batch.images.flatten(0, 1)))
        asked = student.looker.loss(image[:, 0], image[:, 1:], batch.shown)
        ids, mask = _ids(tokens, _twice(batch.texts), image)
        states = ranker.blip["text_encoder"](ids, mask, image)
        reward = ranker.mlp(states[:, 0]).view(-1, 2)
        ranked = batch.loss(reward[:, 0] - reward[:, 1])
        described = _twice(batch.described)
        wrong = torch.tensor([_misses(*pair) for pair in zip(described, batch.shown, strict=True)])
        # Which kinds of claims are wrong, predicted from the whole text's state.
        misses = student.misses(states[:, 0])
        missed = F.binary_cross_entropy_with_logits(misses, wrong.float(), reduction="sum") / len(wrong)
        # Whether each word is wrong, predicted from its own state; words without a kind do not count.
        kind = kinds[ids]
        target = wrong.float().gather(1, kind.clamp(min=0))
        by_word = F.binary_cross_entropy_with_logits(words(states)[..., 0], target, reduction="none")
        word = WEIGHT * by_word[kind >= 0].mean()
        return {
            "loss": ranked["loss"] + missed + word + asked,
            "word": word,
            "accuracy": ranked["accuracy"],
            "misses": missed,
            "questions": asked,
        }

    student.looker.pretrain(vision, student, encode, folder)
    _align(align, student, tokens, encode, folder)
    kinds, words = _word_kinds(vocabulary), nn.Linear(ranker.config.text_width, 1)
    fit_model(plan, nn.ModuleDict({"student": student, "words": words}), loss, folder)
    _standardise(ranker, tokens)
    _save(ranker, folder / PLAN.name)
    return ranker


def _align(
    plan: TrainingPlan,
    student: _Student,
    tokens: Tokenizer,
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    folder: Path,
) -> None:
    """Train the text encoder to agree with the vision tower, before it attends to image tokens.

    This is "align before fuse" (Li et al. 2021): BLIP's contrastive loss, on projections that are not part of
    the result.
    """
    ranker = student.ranker
    width, text_width = ranker.config.vision_width, ranker.config.text_width
    heads = nn.ModuleDict(
        {
            "image": nn.Linear(width, _ALIGNED_WIDTH),
            "text": nn.Linear(text_width, _ALIGNED_WIDTH),
            "questions": nn.Linear(text_width, QUESTIONS),
        }
    )
    scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    both = nn.ModuleDict({"student": student, "heads": heads, "scale": nn.ParameterList([scale])})

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch)
        image, patches = encode(data.render_batch(rng, scenes, soften=True))
        texts = data.caption_batch(rng, scenes, STYLE) + data.false_captions(rng, scenes, STYLE)
        text = ranker.blip["text_encoder"](*_ids(tokens, texts, image), None)[:, 0]
        units = F.normalize(heads["image"](image), dim=-1), F.normalize(heads["text"](text), dim=-1)
        matched = contrastive_loss(*units, scale.clamp(max=np.log(100.0)).exp())
        read = WEIGHT * SceneQuestions.answers_loss(heads["questions"](text[: plan.batch]), scenes)
        asked = student.looker.loss(image, patches, scenes)
        return {"loss": matched["loss"] + read + asked, "accuracy": matched["accuracy"], "read": read}

    fit_model(plan, both, loss, folder)


def _word_kinds(vocabulary: Path) -> Tensor:
    """For each word piece the index of its kind in `KINDS`, (V,); -1 for pieces without a kind."""
    kinds = {word: 0 for words in SHAPE_WORDS.values() for word in words}
    kinds |= {word: 1 for words in COLOUR_WORDS.values() for word in words}
    kinds |= {word: 2 for words in SIZE_WORDS.values() for word in words}
    kinds |= {words.split()[0]: 3 for many in BACKGROUND_WORDS.values() for words in many}
    kinds |= {
        word: 4
        for phrases in (POSITION_PHRASES | RELATION_PHRASES).values()
        for word in " ".join(phrases).split()
        if word not in _EMPTY_WORDS
    }
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    return torch.tensor([kinds.get(piece, -1) for piece in pieces])


def _misses(described: Scene, shown: Scene) -> list[bool]:
    """For each of `KINDS`, whether the scenes differ, in any of their objects."""
    pairs = list(zip(described.items, shown.items, strict=True))
    items = [any(getattr(a, name) != getattr(b, name) for a, b in pairs) for name in KINDS[:3]]
    positions = [(scene.items[0].position, scene.relation) for scene in (described, shown)]
    return [*items, described.background != shown.background, positions[0] != positions[1]]


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
