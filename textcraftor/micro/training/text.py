"""The text encoder that the micro pipeline ships: one that has seen few captions.

The UNet is trained with a text encoder that reads every caption well. Real pipelines have an encoder that
misreads some compositions, which is the room for tuning it. So a new encoder is distilled from the good one
on a few captions: it has seen few combinations of words, and some words not at all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import CLIPTextModel

from rewards.world.training import data
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.tokenizer import TOKENIZER, CaptionTokenizer
from textcraftor.io.export import save_text_encoder
from textcraftor.micro.training.unet import build_text_encoder, load_trained_unet, unet_captions

PLAN = TrainingPlan("text-encoder", steps=350, lr=1e-3, batch=64, seed=33, warmup=50, ema=0.98)
_SINGLES, _PAIRS = 12, 60
"""Captions with one object and with two, which need more captions."""

CAPTIONS = _SINGLES + _PAIRS
"""Captions that the text encoder has seen, besides the empty prompt."""


def train_text_encoder(
    folder: Path, plan: TrainingPlan = PLAN, singles: int = _SINGLES, pairs: int = _PAIRS
) -> CLIPTextModel:
    """Distil the text encoder from the one that was trained with the UNet, and write ``folder/<plan.name>``.

    Args:
        folder: Folder of the build.
        plan: Plan of the distillation.
        singles: Number of captions with one object.
        pairs: Number of captions with two objects.
    """
    tokens, teacher = CaptionTokenizer(folder / TOKENIZER), load_trained_unet(folder).text_encoder.eval()
    rng = np.random.default_rng(plan.seed)
    scenes = data.random_scenes(rng, singles, pairs=0.0) + data.random_scenes(rng, pairs, pairs=1.0)
    texts = ["", *unet_captions(rng, scenes)]
    ids = tokens(texts)
    with torch.no_grad():
        states = teacher(input_ids=ids).last_hidden_state
    torch.manual_seed(plan.seed)
    student = build_text_encoder(tokens)

    def loss(rng: np.random.Generator) -> Losses:
        rows = torch.from_numpy(rng.integers(len(texts), size=plan.batch)).to(ids.device)
        error = F.mse_loss(student(input_ids=ids[rows]).last_hidden_state, states[rows])
        return {"loss": error / states.var()}

    fit_model(plan, student, loss, folder)
    save_text_encoder(student, folder / plan.name)
    return student
