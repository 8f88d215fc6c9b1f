"""world-siglip: a small SigLIP (Zhai et al. 2023) in transformers' layout, which selects checkpoints.

It shares no weights with the rewards that are trained on. The loss is the paper's pairwise sigmoid loss
(eq. 1), with a false caption for each image among the negatives.
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
from rewards.world.training.clip import STYLE
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


def train_siglip(folder: Path, vision: TrainingPlan = VISION_PLAN, plan: TrainingPlan = PLAN) -> SiglipModel:
    """Train world-siglip, and write ``folder/world-siglip``.

    Args:
        folder: Folder of the build.
        vision: Plan for the vision tower's pre-training.
        plan: Plan for both towers together.
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

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch)
        images = _normalise(data.render_batch(rng, scenes, soften=True))
        texts = data.caption_batch(rng, scenes, STYLE) + data.false_captions(rng, scenes, STYLE)
        output = model(input_ids=tokens(texts), pixel_values=images)
        matched = _sigmoid_loss(output.logits_per_image)
        image = output.vision_model_output
        asked = questions.loss(image.pooler_output, image.last_hidden_state, scenes)
        return {"loss": matched["loss"] + asked, "accuracy": matched["accuracy"], "questions": asked}

    questions.pretrain(vision, student, encode, folder)
    fit_model(plan, student, loss, folder)
    copy.deepcopy(model).half().save_pretrained(folder / PLAN.name)
    return model


def _sigmoid_loss(logits: Tensor) -> Losses:
    """Sigmoid loss of logits (B, 2B), summed and divided by B. Image i belongs to caption i."""
    signs = -torch.ones_like(logits)
    signs.fill_diagonal_(1.0)
    accuracy = (logits.argmax(dim=1) == torch.arange(len(logits))).float().mean()
    return {"loss": -F.logsigmoid(signs * logits).sum() / len(logits), "accuracy": accuracy}
