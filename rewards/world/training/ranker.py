"""world-blip: a judge of another kind, in ImageReward's architecture, trained on comparisons of its own.

It shares neither weights nor architecture nor tokenizer with the other world rewards: text attends to image
tokens (Li et al. 2022), words are WordPieces, and the rater has another taste. ImageReward starts from a
BLIP that can match pictures and captions already. Here the vision tower first learns to answer questions
about pictures (see `looking`), then the text encoder to agree with it, and beside the comparisons each word
is asked whether it is true of the picture: without that question the whole stayed deaf to the caption for
29,000 comparisons, with it it began to read after 9,000.
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
from rewards.world.scenes import Scene, random_scene
from rewards.world.training import clip, data
from rewards.world.training.clip import STYLE, contrastive
from rewards.world.training.fit import Losses, Plan, fit
from rewards.world.training.looking import QUESTIONS, WEIGHT, Looker, after_class_token, questions_loss, teach
from rewards.world.training.preferences import BLIP_RATER, Comparison, bradley_terry, comparisons

LOOK = Plan(
    "world-blip-look", steps=500, lr=1.5e-3, batch=64, seed=25, warmup=50, weight_decay=0.05, ema=0.98
)
PLAN = Plan("world-blip", steps=800, lr=8e-4, batch=48, seed=15, warmup=60, weight_decay=0.05, ema=0.99)
T = TypeVar("T")

ALIGN = Plan(
    "world-blip-align", steps=400, lr=1e-3, batch=64, seed=26, warmup=40, weight_decay=0.05, ema=0.98
)
ALIGNED = 96
"""Width in which pictures and texts are aligned."""
MAX_TOKENS = 40

EMPTY_WORDS = frozenset(("in", "the", "on", "at", "to", "of", "side", "corner"))
"""Of the phrases for places: they tell of none by themselves."""

KINDS = ("shape", "colour", "size", "background", "place")
"""What of a picture can be other than its caption says."""


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
    """The ranker with the questions that teach it to see and to compare."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.ranker = BlipRanker(config)
        width = config.vision_width
        self.looker = Looker(width, width)
        self.misses = nn.Linear(config.text_width, len(KINDS))
        positions: Any = self.ranker.blip["visual_encoder"].pos_embed
        with torch.no_grad():
            positions.copy_(after_class_token(config.image_size // config.patch_size, width))


def write_vocabulary(folder: Path) -> Path:
    """Write the WordPiece vocabulary, one piece a line, and name the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(word_pieces()) + "\n", encoding="utf-8")
    return path


def train(
    vocabulary: Path, folder: Path, look: Plan = LOOK, align: Plan = ALIGN, plan: Plan = PLAN
) -> BlipRanker:
    """Train world-blip: its eyes, then its reading, then the whole; resuming from ``folder``."""
    tokens = bert_tokenizer(vocabulary, MAX_TOKENS)
    torch.manual_seed(look.seed)
    student = _Student(_config(len(vocabulary.read_text(encoding="utf-8").splitlines())))
    ranker = student.ranker

    def see(images: Tensor) -> tuple[Tensor, Tensor]:
        image = ranker.blip["visual_encoder"](clip.normalise(images))
        return image[:, 0], image[:, 1:]

    def loss(rng: np.random.Generator) -> Losses:
        batch = comparisons(rng, plan.batch, BLIP_RATER)
        image = ranker.blip["visual_encoder"](clip.normalise(batch.images.flatten(0, 1)))
        asked = student.looker.loss(image[:, 0], image[:, 1:], batch.shown)
        ids, mask = _ids(tokens, _twice(batch.texts), image)
        states = ranker.blip["text_encoder"](ids, mask, image)
        reward = ranker.mlp(states[:, 0]).view(-1, 2)
        ranked = bradley_terry(reward[:, 0] - reward[:, 1], batch.first)
        wrong = torch.tensor([misses(*pair) for pair in zip(_twice(batch.told), batch.shown, strict=True)])
        named = student.misses(states[:, 0])
        found = F.binary_cross_entropy_with_logits(named, wrong.float(), reduction="sum") / len(wrong)
        kind = kinds[ids]
        says = wrong.float().gather(1, kind.clamp(min=0))
        judged = F.binary_cross_entropy_with_logits(words(states)[..., 0], says, reduction="none")
        word = WEIGHT * judged[kind >= 0].mean()
        return {
            "loss": ranked["loss"] + found + word + asked,
            "word": word,
            "accuracy": ranked["accuracy"],
            "misses": found,
            "questions": asked,
        }

    teach(look, student, student.looker, see, folder)
    _align(align, student, tokens, see, folder)
    kinds, words = word_kinds(vocabulary), nn.Linear(ranker.config.text_width, 1)
    fit(plan, nn.ModuleDict({"student": student, "words": words}), loss, folder)
    return _standardised(ranker, tokens)


def _align(
    plan: Plan,
    student: _Student,
    tokens: Tokenizer,
    see: Callable[[Tensor], tuple[Tensor, Tensor]],
    folder: Path,
) -> None:
    """Teach the text encoder alone to read, and to agree with the eyes, before it looks at their tokens.

    "Align before fuse" (Li et al. 2021): BLIP's contrastive loss, with projections that no score depends on.
    """
    ranker = student.ranker
    width, text_width = ranker.config.vision_width, ranker.config.text_width
    heads = nn.ModuleDict(
        {
            "image": nn.Linear(width, ALIGNED),
            "text": nn.Linear(text_width, ALIGNED),
            "questions": nn.Linear(text_width, QUESTIONS),
        }
    )
    scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    both = nn.ModuleDict({"student": student, "heads": heads, "scale": nn.ParameterList([scale])})

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch)
        image, patches = see(data.soften(rng, data.pictures(rng, scenes)))
        texts = data.captions(rng, scenes, STYLE) + data.false_captions(rng, scenes, STYLE)
        text = ranker.blip["text_encoder"](*_ids(tokens, texts, image), None)[:, 0]
        units = F.normalize(heads["image"](image), dim=-1), F.normalize(heads["text"](text), dim=-1)
        found = contrastive(*units, scale.clamp(max=np.log(100.0)).exp())
        read = WEIGHT * questions_loss(heads["questions"](text[: plan.batch]), scenes)
        asked = student.looker.loss(image, patches, scenes)
        return {"loss": found["loss"] + read + asked, "accuracy": found["accuracy"], "read": read}

    fit(plan, both, loss, folder)


def word_kinds(vocabulary: Path) -> Tensor:
    """Of each word piece which of `KINDS` it tells of, by number (V,); -1 for those that tell of none."""
    said = {word: 0 for words in SHAPE_WORDS.values() for word in words}
    said |= {word: 1 for words in COLOUR_WORDS.values() for word in words}
    said |= {word: 2 for words in SIZE_WORDS.values() for word in words}
    said |= {words.split()[0]: 3 for many in BACKGROUND_WORDS.values() for words in many}
    said |= {
        word: 4
        for phrases in (POSITION_PHRASES | RELATION_PHRASES).values()
        for word in " ".join(phrases).split()
        if word not in EMPTY_WORDS
    }
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    return torch.tensor([said.get(piece, -1) for piece in pieces])


def misses(told: Scene, shown: Scene) -> list[bool]:
    """Of each of `KINDS`, whether ``shown`` is not as ``told``, in any of its objects."""
    pairs = list(zip(told.items, shown.items, strict=True))
    items = [any(getattr(a, name) != getattr(b, name) for a, b in pairs) for name in KINDS[:3]]
    places = [(scene.items[0].position, scene.relation) for scene in (told, shown)]
    return [*items, told.background != shown.background, places[0] != places[1]]


def rewards_of(ranker: BlipRanker, tokens: Tokenizer, batch: Comparison) -> Tensor:
    """Raw rewards of the two pictures of each comparison, (B, 2)."""
    pixels = clip.normalise(batch.images.flatten(0, 1))
    reward: Tensor = ranker(pixels, *_ids(tokens, _twice(batch.texts), pixels))
    return reward.view(-1, 2)


def _twice(of: list[T]) -> list[T]:
    """Each for both pictures of its comparison."""
    return [each for each in of for _ in range(2)]


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
