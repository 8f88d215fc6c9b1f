"""The embedded world's prompt rewriter: GPT-2's architecture, taught to go on with style words.

Its examples are true captions of pictures of every quality, so what it says at first is no better than the
world is; training by reward (`textcraftor.algorithms.rewriter`) has something to choose from.
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
from rewards.world.training.fit import Losses, Plan, fit
from textcraftor.rewriters import REWRITERS, write_settings

PLAN = Plan("rewriter", steps=1500, lr=2e-3, batch=64, seed=71, weight_decay=0.01)

END = "<|endoftext|>"
VOCABULARY = 512
PLACES = 128
"""Tokens that it can read and write together."""


def example(rng: np.random.Generator, scene: Scene) -> tuple[str, str] | None:
    """A caption that is silent of style, and the style words that follow it; None if there are none."""
    words = style_words(rng, scene.style)
    return (caption(rng, scene, style=0.0), ", ".join(words)) if words else None


def examples(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """``count`` of them."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        found += [one for scene in random_scenes(rng, count) if (one := example(rng, scene))]
    return found[:count]


def build_tokenizer(count: int = 5000, seed: int = 72) -> Any:
    """Byte-level BPE, as GPT-2 has it, learnt from examples."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (f"{prompt}, {words}" for prompt, words in examples(np.random.default_rng(seed), count))
    own.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token=END, bos_token=END, pad_token=END, padding_side="left"
    )


def build_model(vocabulary: int) -> Any:
    """Half a million parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(PLAN.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=PLACES,
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


def train(folder: Path, plan: Plan = PLAN) -> None:
    """Teach it, and write ``folder/world-extend``, a rewriter's folder."""
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer))

    def loss(rng: np.random.Generator) -> Losses:
        pairs = examples(rng, plan.batch)
        asked = tokenizer([f"{prompt}," for prompt, _ in pairs]).input_ids
        told = [[*tokenizer.encode(f" {words}"), tokenizer.eos_token_id] for _, words in pairs]
        rows = [[*a, *b] for a, b in zip(asked, told, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        labels = torch.tensor(
            [
                [*[-100] * len(a), *b, *[-100] * (width - len(a) - len(b))]
                for a, b in zip(asked, told, strict=True)
            ]
        )
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        return {"loss": cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())}

    fit(plan, model, loss, folder)
    out = folder / "world-extend"
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_settings(REWRITERS["world-extend"], out)
