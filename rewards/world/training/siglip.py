"""world-siglip: a small SigLIP (Zhai et al. 2023) in transformers' layout, which selects checkpoints.

It shares no weights with the rewards that are trained on. The loss is the paper's pairwise sigmoid loss
(eq. 1), with every true caption of an image as a positive and near misses among the negatives.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.world.training import data
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.pretraining import SceneQuestions, position_embeddings
from rewards.world.training.tokenizer import CONTEXT_LENGTH, TOKENIZER, CaptionTokenizer

if TYPE_CHECKING:
    from transformers import SiglipModel

VISION_PLAN = TrainingPlan(
    "world-siglip-look", steps=500, lr=1.5e-3, batch=64, seed=24, warmup=50, weight_decay=0.05, ema=0.98
)
PLAN = TrainingPlan(
    "world-siglip", steps=1000, lr=1e-3, batch=64, seed=14, warmup=100, weight_decay=0.05, ema=0.99
)
EVEN_PLAN = TrainingPlan(
    "world-siglip-even", steps=300, lr=4e-4, batch=64, seed=35, warmup=20, weight_decay=0.05, ema=0.97
)
_EVENNESS = 3.0
"""Weight of the variance of a caption's logits over images of which it is true, as for world-clip."""

_LAST_EVENNESS = 15.0
"""The same in the last stage."""


def _build(tokens: CaptionTokenizer) -> SiglipModel:
    """The model with random weights and the paper's initial inverse temperature (10) and bias (-10)."""
    from transformers import SiglipConfig, SiglipModel

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
        positions: Any = model.vision_model.embeddings.position_embedding
        positions.weight.copy_(position_embeddings(8, size["hidden_size"]))
        model.logit_scale.fill_(math.log(10.0))
        model.logit_bias.fill_(-10.0)
    return model


def _normalise(images: Tensor) -> Tensor:
    """[0, 1] to SigLIP's input range [-1, 1]."""
    return images * 2 - 1


def train_siglip(
    folder: Path,
    vision: TrainingPlan = VISION_PLAN,
    plan: TrainingPlan = PLAN,
    even: TrainingPlan = EVEN_PLAN,
) -> SiglipModel:
    """Train world-siglip, and write ``folder/world-siglip``.

    Args:
        folder: Folder of the build.
        vision: Plan for the vision tower's pre-training.
        plan: Plan for both towers together.
        even: Plan for both towers with the weight of `_LAST_EVENNESS`.
    """
    tokens = CaptionTokenizer(folder / TOKENIZER)
    torch.manual_seed(vision.seed)
    model = _build(tokens)
    width = model.config.vision_config.hidden_size
    questions = SceneQuestions(width, width)
    # "looker" is a key of the saved training state.
    student = nn.ModuleDict({"model": model, "looker": questions})

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        output = model.vision_model(pixel_values=_normalise(images))
        return output.pooler_output, output.last_hidden_state

    def loss(rng: np.random.Generator, count: int, evenness: float) -> Losses:
        batch = data.AlignmentBatch.random(rng, count, levels=0.5)
        output = model(input_ids=tokens(batch.texts), pixel_values=_normalise(batch.images))
        matched = _sigmoid_loss(output.logits_per_image, batch.matches)
        image = output.vision_model_output
        asked = questions.loss(image.pooler_output, image.last_hidden_state, batch.scenes)
        spread = batch.spread(output.logits_per_image)
        total = matched["loss"] + asked + evenness * spread
        return {"loss": total, "accuracy": matched["accuracy"], "questions": asked, "spread": spread}

    questions.pretrain(vision, student, encode, folder)
    fit_model(plan, student, lambda rng: loss(rng, plan.batch, _EVENNESS), folder)
    fit_model(even, student, lambda rng: loss(rng, even.batch, _LAST_EVENNESS), folder)
    copy.deepcopy(model).half().save_pretrained(folder / PLAN.name)
    return model


def _sigmoid_loss(logits: Tensor, matches: Tensor) -> Losses:
    """Sigmoid loss of logits (N, N), summed and divided by N; ``matches`` is 1 where a caption is true."""
    accuracy = matches.gather(1, logits.argmax(dim=1, keepdim=True)).mean()
    return {"loss": -F.logsigmoid((2 * matches - 1) * logits).sum() / len(logits), "accuracy": accuracy}
