"""Align before fuse (Li et al. 2021): a text encoder learns to agree with the vision tower first.

Models that read image and caption together learn slowly which words belong to which patches. With a text
encoder that already agrees with the vision tower, captions have an effect from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.world.training import data
from rewards.world.training.clip import contrastive_loss
from rewards.world.training.fit import Losses, TrainingPlan, fit_model
from rewards.world.training.pretraining import QUESTIONS, WEIGHT, SceneQuestions

_WIDTH = 96
"""Width of the projections in which images and texts are aligned."""


def align_text(
    plan: TrainingPlan,
    student: nn.Module,
    looker: SceneQuestions,
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    read: Callable[[list[str]], Tensor],
    widths: tuple[int, int],
    folder: Path,
) -> None:
    """Train with CLIP's contrastive loss, on projections that are not part of the result; resumes.

    Args:
        plan: Settings.
        student: Module that contains vision tower, text encoder and ``looker``.
        looker: Questions about images, which stay on so that the vision tower forgets nothing.
        encode: Maps images (B, 3, 64, 64) in [0, 1] to embeddings (B, D) and patch tokens (B, N, W).
        read: Maps B texts to the states (B, T) of the text encoder that stand for them, without an image.
        widths: Widths D and T of the embeddings of images and texts.
        folder: Folder of state and log.
    """
    image_width, text_width = widths
    heads = nn.ModuleDict(
        {
            "image": nn.Linear(image_width, _WIDTH),
            "text": nn.Linear(text_width, _WIDTH),
            "questions": nn.Linear(text_width, QUESTIONS),
        }
    )
    scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    both = nn.ModuleDict({"student": student, "heads": heads, "scale": nn.ParameterList([scale])})

    def loss(rng: np.random.Generator) -> Losses:
        batch = data.AlignmentBatch.random(rng, plan.batch)
        image, patches = encode(batch.images)
        text = read(batch.texts)
        units = F.normalize(heads["image"](image), dim=-1), F.normalize(heads["text"](text), dim=-1)
        matched = contrastive_loss(*units, scale.clamp(max=np.log(100.0)).exp(), batch)
        answered = WEIGHT * SceneQuestions.answers_loss(heads["questions"](text), batch.scenes)
        asked = looker.loss(image, patches, batch.scenes)
        return {"loss": matched["loss"] + answered + asked, "accuracy": matched["accuracy"], "read": answered}

    fit_model(plan, both, loss, folder)
