"""The embedded world's prompt rewriter: a GPT-2 that appends style words to a caption.

It is trained on true style words of images of every quality. So at first it appends good and bad words alike,
and training by reward (`textcraftor.algorithms.rewriter`) can choose among them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from rewards.world.captions import caption, style_words
from rewards.world.scenes import Scene
from rewards.world.training.data import random_scenes
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from textcraftor.rewriters import REWRITERS

PLAN = TrainingPlan("rewriter", steps=1500, lr=2e-3, batch=64, seed=71, weight_decay=0.01)

REWRITER = "world-extend"
END = "<|endoftext|>"
VOCABULARY = 512
POSITIONS = 128
"""Most tokens of prompt and rewrite together."""


def _example(rng: np.random.Generator, scene: Scene) -> tuple[str, str] | None:
    """A caption without style words, and the style words to append; None if the style is medium."""
    words = style_words(rng, scene.style)
    return (caption(rng, scene, style=0.0), ", ".join(words)) if words else None


def _examples(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    examples: list[tuple[str, str]] = []
    while len(examples) < count:
        examples += [each for scene in random_scenes(rng, count) if (each := _example(rng, scene))]
    return examples[:count]


def _build_tokenizer(count: int = 5000, seed: int = 72) -> Any:
    """A byte-level BPE like GPT-2's, learned from examples."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (f"{prompt}, {words}" for prompt, words in _examples(np.random.default_rng(seed), count))
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, bos_token=END, pad_token=END, padding_side="left"
    )


def _build_model(vocabulary: int) -> Any:
    """A GPT-2 with random weights and half a million parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(PLAN.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=POSITIONS,
            n_embd=128,
            n_layer=2,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def train_rewriter(folder: Path, plan: TrainingPlan = PLAN) -> None:
    """Train the rewriter by supervision, and write ``folder/world-extend``."""
    tokenizer = _build_tokenizer()
    model = _build_model(len(tokenizer))

    def loss(rng: np.random.Generator) -> Losses:
        pairs = _examples(rng, plan.batch)
        prompts = tokenizer([f"{prompt}," for prompt, _ in pairs]).input_ids
        appended = [[*tokenizer.encode(f" {words}"), tokenizer.eos_token_id] for _, words in pairs]
        rows = [[*a, *b] for a, b in zip(prompts, appended, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        # -100 is cross_entropy's ignored label: only the appended words are trained.
        labels = torch.tensor(
            [
                [*[-100] * len(a), *b, *[-100] * (width - len(a) - len(b))]
                for a, b in zip(prompts, appended, strict=True)
            ]
        )
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        return {"loss": cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())}

    fit_model(plan, model, loss, folder)
    out = folder / REWRITER
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    REWRITERS[REWRITER].write(out)
