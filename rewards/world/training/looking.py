"""Teaching small transformers to see shapes and places, and to read of them.

Trained on captions alone, the world's transformers stay bags of patches for more than 100,000 pictures: they
know colours, sizes and quality, but neither shapes nor places. Asked of every patch where the nearest object
is and which shape covers it, they know places after 20,000. So every vision tower, and the text towers of
world-clip and world-blip, answer questions about scenes before they are trained for their purpose. The layers
that answer are thrown away.
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
from rewards.world.training.fit import Losses, Plan, fit

STYLE_AXES = len(Style.__dataclass_fields__)
QUESTIONS = (
    len(SHAPES) * len(COLOURS)
    + len(BACKGROUNDS)
    + len(SIZES)
    + len(POSITIONS)
    + len(RELATIONS)
    + 2 * STYLE_AXES
)
PATCH_QUESTIONS = 2 + len(SHAPES)
WEIGHT = 10.0
"""Of each kind of question beside a contrastive loss: most answers are no, so their losses are small."""

LONGEST = 30.0
"""Wavelength of the slowest sine over that of the fastest; a grid of 8 patches needs no more."""


class Looker(nn.Module):
    """Questions about a picture, answered from its embedding, and about its patches, from their tokens."""

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.questions = nn.Linear(width, QUESTIONS)
        self.patches = nn.Linear(token_width, PATCH_QUESTIONS)

    def loss(self, embedded: Tensor, tokens: Tensor, scenes: list[Scene]) -> Tensor:
        """How wrong the answers are that ``embedded`` (B, D) and ``tokens`` (B, N, W) of N patches give."""
        side = int(tokens.shape[1] ** 0.5)
        offsets, covers = patch_truth(scenes, side)
        answers = self.patches(tokens)
        asked = questions_loss(self.questions(embedded), scenes)
        where = (answers[..., :2] - offsets).square().mean()
        what = F.binary_cross_entropy_with_logits(answers[..., 2:], covers)
        total: Tensor = WEIGHT * (asked + where + what)
        return total


def teach(
    plan: Plan,
    student: nn.Module,
    looker: Looker,
    see: Callable[[Tensor], tuple[Tensor, Tensor]],
    folder: Path,
) -> None:
    """Teach a vision tower alone, resuming from ``folder``.

    ``see`` turns pictures (B, 3, 64, 64) in [0, 1] into their embedding (B, D) and the tokens of their N
    patches (B, N, W). ``student`` is the module that holds both the tower and ``looker``; what ``see`` does
    not use of it stays as it is.
    """

    def loss(rng: np.random.Generator) -> Losses:
        scenes = data.random_scenes(rng, plan.batch)
        embedded, tokens = see(data.soften(rng, data.pictures(rng, scenes)))
        return {"loss": looker.loss(embedded, tokens, scenes)}

    fit(plan, student, loss, folder)


def questions_loss(answers: Tensor, scenes: list[Scene]) -> Tensor:
    """Mean cross-entropy with `truth` of logits (B, QUESTIONS), or (B, T, QUESTIONS) after each token."""
    expected = truth(scenes)
    if answers.ndim == 3:
        expected = expected[:, None].expand_as(answers)
    return F.binary_cross_entropy_with_logits(answers, expected)


def truth(scenes: list[Scene]) -> Tensor:
    """0/1 answers (B, QUESTIONS) about pictures.

    Is there an object of each shape and colour, is it this background, is there an object of each size, is
    the one object at this position, have the two this relation, is each axis of style low, is it high.
    """
    return torch.tensor([_answers(scene) for scene in scenes], dtype=torch.float32)


def _answers(scene: Scene) -> list[bool]:
    items = scene.items
    found = [any((i.shape, i.colour) == (s, c) for i in items) for s in SHAPES for c in COLOURS]
    found += [scene.background == name for name in BACKGROUNDS]
    found += [any(item.size == name for item in items) for name in SIZES]
    found += [items[0].position == name for name in POSITIONS]
    found += [scene.relation == name for name in RELATIONS]
    style = astuple(scene.style)
    return found + [value < LOW for value in style] + [value > HIGH for value in style]


def patch_truth(scenes: list[Scene], side: int) -> tuple[Tensor, Tensor]:
    """Of each of ``side`` x ``side`` patches, row by row.

    Offset (x, y) from the nearest object's centre in half pictures, (B, N, 2), and 0/1 for each shape that
    covers any of it, (B, N, len(SHAPES)).
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
            closest = signed_distance(item).reshape(side, step, side, step).min(axis=(1, 3))
            covers[row, ..., SHAPES.index(item.shape)] += closest < 0
    flat = (torch.from_numpy(part).flatten(1, 2) for part in (offsets, covers.clip(max=1)))
    where, what = (part.to(torch.get_default_device()) for part in flat)
    return where, what


def after_class_token(side: int, width: int) -> Tensor:
    """`sine_cosine` after a class token, whose position is 0: (1 + side^2, width)."""
    return F.pad(sine_cosine(side, width), (0, 0, 1, 0))


def sine_cosine(side: int, width: int) -> Tensor:
    """Initial position embeddings (side^2, width) of a square grid of patches, row by row.

    Sines and cosines (Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k", section 3) are as
    large as the patches beside them; the usual random ones are a tenth of that. ``width`` is a multiple of 4.
    """
    frequency = LONGEST ** -torch.linspace(0, 1, width // 4)
    axis = torch.arange(side, dtype=torch.float32)
    row, column = (part.flatten()[:, None] * frequency for part in torch.meshgrid(axis, axis, indexing="ij"))
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=1)
