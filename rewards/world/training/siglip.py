"""world-siglip: a small SigLIP (Zhai et al. 2023) as transformers has it, for selecting checkpoints.

Trained from scratch on pictures and captions of its own with the pairwise sigmoid loss (their eq. 1), with a
false caption an image among the negatives.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipConfig, SiglipModel

from rewards.world.training import data
from rewards.world.training.clip import STYLE, Tokens
from rewards.world.training.fit import Losses, Plan, fit
from rewards.world.training.looking import Looker, sine_cosine, teach
from rewards.world.training.tokenizer import CONTEXT_LENGTH

LOOK = Plan(
    "world-siglip-look", steps=500, lr=1.5e-3, batch=64, seed=24, warmup=50, weight_decay=0.05, ema=0.98
)
PLAN = Plan("world-siglip", steps=1000, lr=1e-3, batch=64, seed=14, warmup=100, weight_decay=0.05, ema=0.99)


def build(tokens: Tokens) -> SiglipModel:
    """The model with random weights and the paper's initial temperature (10) and bias (-10)."""
    size = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4}
    special = tokens.tokenizer
    text = size | {
        "vocab_size": len(tokens),
        "num_hidden_layers": 3,
        "max_position_embeddings": CONTEXT_LENGTH,
        "projection_size": 96,
        "bos_token_id": special.bos_token_id,
        "eos_token_id": special.eos_token_id,
        "pad_token_id": special.pad_token_id,
    }
    vision = size | {"num_hidden_layers": 4, "image_size": 64, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        places: Any = model.vision_model.embeddings.position_embedding
        places.weight.copy_(sine_cosine(8, size["hidden_size"]))
        model.logit_scale.fill_(math.log(10.0))
        model.logit_bias.fill_(-10.0)
    return model


def normalise(images: Tensor) -> Tensor:
    """[0, 1] to SigLIP's input range [-1, 1]."""
    return images * 2 - 1


def train(tokenizer: Path, folder: Path, look: Plan = LOOK, plan: Plan = PLAN) -> SiglipModel:
    """Train world-siglip, first its eyes (see `looking`), then both towers; resuming from ``folder``."""
    tokens = Tokens(tokenizer)
    torch.manual_seed(look.seed)
    model = build(tokens)
    width = model.config.vision_config.hidden_size
    student = nn.ModuleDict({"model": model, "looker": Looker(width, width)})
    looker: Any = student["looker"]

    def see(images: Tensor) -> tuple[Tensor, Tensor]:
        seen = model.vision_model(pixel_values=normalise(images))
        return seen.pooler_output, seen.last_hidden_state

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch)
        images = normalise(data.soften(rng, data.pictures(rng, scenes)))
        texts = data.captions(rng, scenes, STYLE) + data.false_captions(rng, scenes, STYLE)
        found = model(input_ids=tokens(texts), pixel_values=images)
        matched = sigmoid_loss(found.logits_per_image)
        seen = found.vision_model_output
        asked = looker.loss(seen.pooler_output, seen.last_hidden_state, scenes)
        return {"loss": matched["loss"] + asked, "accuracy": matched["accuracy"], "questions": asked}

    teach(look, student, looker, see, folder)
    fit(plan, student, loss, folder)
    return model


def sigmoid_loss(logits: Tensor) -> Losses:
    """Sigmoid loss of logits (B, 2B) over the batch size; right captions are on the first half's diagonal."""
    signs = -torch.ones_like(logits)
    signs.fill_diagonal_(1.0)
    right = (logits.argmax(dim=1) == torch.arange(len(logits))).float().mean()
    return {"loss": -F.logsigmoid(signs * logits).sum() / len(logits), "accuracy": right}
