"""Pre-training of towers with questions about scenes, as auxiliary losses.

Small transformers trained on images and captions alone did not learn shapes and positions within 100,000
images, only colours, sizes and quality. When they also predict, for every patch, the direction of the nearest
object and the shape that covers the patch, they learn positions within 20,000 images. So every vision tower,
and the text encoders of world-clip, world-blip and world-vqa, first learn to answer questions about scenes.
The layers that answer are not part of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.world.captions import HIGH, LOW
from rewards.world.render import signed_distance
from rewards.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZE_PX,
    SIZES,
    Scene,
    Style,
)
from rewards.world.training import data
from rewards.world.training.fit import Losses, TrainingPlan, fit_model

_STYLE_AXES = len(Style.__dataclass_fields__)
QUESTIONS = (
    len(SHAPES) * len(COLOURS)
    + len(BACKGROUNDS)
    + len(SIZES)
    + len(POSITIONS)
    + len(RELATIONS)
    + 2 * _STYLE_AXES
)
"""Number of questions about a scene."""

_PATCH_QUESTIONS = 2 + len(SHAPES)
WEIGHT = 10.0
"""Weight of each kind of question beside a contrastive loss. Most answers are no, so the losses are small."""

_LONGEST = 30.0
"""Ratio of the longest wavelength to the shortest in position embeddings; enough for a grid of 8 patches."""


class SceneQuestions(nn.Module):
    """Linear layers that answer questions on an image from its embedding, on patches from their tokens.

    Args:
        width: Width of embeddings.
        token_width: Width of patch tokens.
    """

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.questions = nn.Linear(width, QUESTIONS)
        self.patches = nn.Linear(token_width, _PATCH_QUESTIONS)

    def loss(self, embedded: Tensor, tokens: Tensor, scenes: list[Scene]) -> Tensor:
        """Return the loss of the answers.

        Args:
            embedded: Image embeddings (B, D).
            tokens: Patch tokens (B, N, W) of a square grid of N patches.
            scenes: The images' scenes.
        """
        side = int(tokens.shape[1] ** 0.5)
        offsets, covers = _patch_targets(scenes, side)
        answers = self.patches(tokens)
        scene_loss = self.answers_loss(self.questions(embedded), scenes)
        offset_loss = (answers[..., :2] - offsets).square().mean()
        cover_loss = F.binary_cross_entropy_with_logits(answers[..., 2:], covers)
        total: Tensor = WEIGHT * (scene_loss + offset_loss + cover_loss)
        return total

    def pretrain(
        self,
        plan: TrainingPlan,
        student: nn.Module,
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        folder: Path,
    ) -> None:
        """Pre-train a vision tower alone; resumes.

        Args:
            plan: Settings.
            student: Module that contains the tower and these layers. Parts that ``encode`` does not use keep
                their weights.
            encode: Maps images (B, 3, 64, 64) in [0, 1] to embeddings (B, D) and patch tokens (B, N, W).
            folder: Folder of state and log.
        """

        def loss(rng: np.random.Generator) -> Losses:
            scenes = data.random_scenes(rng, plan.batch, looks=Style.even)
            embedded, tokens = encode(data.render_batch(scenes, rng))
            return {"loss": self.loss(embedded, tokens, scenes)}

        fit_model(plan, student, loss, folder)

    @staticmethod
    def answers_loss(answers: Tensor, scenes: list[Scene]) -> Tensor:
        """Return the mean binary cross-entropy of answers.

        Args:
            answers: Logits (B, QUESTIONS), or (B, T, QUESTIONS) after each token.
            scenes: The scenes of the questions.
        """
        expected = _targets(scenes)
        if answers.ndim == 3:
            expected = expected[:, None].expand_as(answers)
        return F.binary_cross_entropy_with_logits(answers, expected)


def _targets(scenes: list[Scene]) -> Tensor:
    """Correct answers (B, QUESTIONS), 0 or 1."""
    return torch.tensor([_answers(scene) for scene in scenes], dtype=torch.float32)


def _answers(scene: Scene) -> list[bool]:
    """Answers about one scene: is there an object of this shape and colour, is this the background, has an
    object this size, is the single object at this position, is this the relation, is this style axis low,
    is it high.
    """
    items = scene.items
    answers = [any((i.shape, i.colour) == (s, c) for i in items) for s in SHAPES for c in COLOURS]
    answers += [scene.background == name for name in BACKGROUNDS]
    answers += [any(item.size == name for item in items) for name in SIZES]
    answers += [items[0].position == name for name in POSITIONS]
    answers += [scene.relation == name for name in RELATIONS]
    style = astuple(scene.style)
    return answers + [value < LOW for value in style] + [value > HIGH for value in style]


def _patch_targets(scenes: list[Scene], side: int) -> tuple[Tensor, Tensor]:
    """Correct answers about each of N = ``side`` x ``side`` patches, row by row.

    Returns:
        Offset (x, y) of the patch from the nearest object's centre in half images, (B, N, 2); and 0 or 1 for
        each shape that covers a part of the patch, (B, N, len(SHAPES)).
    """
    step = SIZE_PX // side
    centres = (np.arange(side) + 0.5) * step
    offsets = np.zeros((len(scenes), side, side, 2), np.float32)
    covers = np.zeros((len(scenes), side, side, len(SHAPES)), np.float32)
    for row, scene in enumerate(scenes):
        to = np.stack(
            [np.stack(np.meshgrid(centres - i.x, centres - i.y), axis=-1) for i in scene.items]
        )  # (objects, side, side, 2)
        nearest = np.linalg.norm(to, axis=-1).argmin(axis=0)
        offsets[row] = np.take_along_axis(to, nearest[None, ..., None], axis=0)[0] / (SIZE_PX / 2)
        for item in scene.items:
            # A shape covers a part of a patch if the smallest signed distance in the patch is negative.
            closest = signed_distance(item).reshape(side, step, side, step).min(axis=(1, 3))
            covers[row, ..., SHAPES.index(item.shape)] += closest < 0
    flat = (torch.from_numpy(part).flatten(1, 2) for part in (offsets, covers.clip(max=1)))
    where, what = (part.to(torch.get_default_device()) for part in flat)
    return where, what


def position_embeddings(side: int, width: int, *, class_token: bool = False) -> Tensor:
    """Return initial position embeddings of a square grid of patches, row by row.

    They are sines and cosines (Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k", section 3),
    which are as large as the patch embeddings; the usual random ones are a tenth of that.

    Args:
        side: Patches along a side.
        width: Width, a multiple of 4.
        class_token: Put a row of zeros for a class token first.

    Returns:
        (side^2, width), with a class token (1 + side^2, width).
    """
    frequency = _LONGEST ** -torch.linspace(0, 1, width // 4)
    axis = torch.arange(side, dtype=torch.float32)
    row, column = (part.flatten()[:, None] * frequency for part in torch.meshgrid(axis, axis, indexing="ij"))
    grid = torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=1)
    return F.pad(grid, (0, 0, 1, 0)) if class_token else grid
