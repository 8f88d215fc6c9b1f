"""Questions about scenes: correct answers, their loss, and pre-training with them."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards.world.captions import HIGH, LOW
from rewards.world.render import render
from rewards.world.scenes import (
    BACKGROUNDS,
    CLEAN,
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Item,
    Scene,
    Style,
)
from rewards.world.training import clip, data, pretraining
from rewards.world.training.fit import TrainingPlan
from rewards.world.training.tokenizer import CaptionTokenizer

DISC = Item("circle", "red", "small", 12.0, 36.0, 10.0, "left")
STAR = Item("star", "blue", "small", 52.0, 36.0, 10.0)
AXES = [field.name for field in fields(Style)]


def test_the_answers_describe_the_scene() -> None:
    scenes = data.random_scenes(np.random.default_rng(1), 60, pairs=0.5)
    names: list[object] = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    names += [*BACKGROUNDS, *SIZES, *POSITIONS, *RELATIONS]
    names += [(axis, end) for end in ("low", "high") for axis in AXES]
    answers = pretraining._targets(scenes)
    assert answers.shape == (60, pretraining.QUESTIONS) == (60, len(names))
    for scene, row in zip(scenes, answers, strict=True):
        marked = {name for name, answer in zip(names, row.tolist(), strict=True) if answer == 1}
        expected: set[object] = {(item.shape, item.colour) for item in scene.items}
        expected |= {scene.background, *(item.size for item in scene.items)}
        expected.add(scene.relation or scene.items[0].position)
        expected |= {(axis, "low") for axis in AXES if getattr(scene.style, axis) < LOW}
        expected |= {(axis, "high") for axis in AXES if getattr(scene.style, axis) > HIGH}
        assert marked == expected


def test_a_patch_has_the_offset_to_the_nearest_object() -> None:
    offsets, _ = pretraining._patch_targets([Scene((DISC, STAR), "white", CLEAN)], side=8)
    assert offsets.shape == (1, 64, 2)
    grid = offsets.view(8, 8, 2) * 32
    assert grid[4, 1].tolist() == [0.0, 0.0]  # the centre of this patch, (12, 36), is that of the disc
    assert grid[4, 6].tolist() == [0.0, 0.0]  # and of this one that of the star
    assert grid[0, 0].tolist() == [4.0 - 12.0, 4.0 - 36.0]
    assert grid[7, 7].tolist() == [60.0 - 52.0, 60.0 - 36.0]


def test_a_shape_covers_the_patches_that_show_it() -> None:
    scene = Scene((DISC, replace(STAR, x=40.0)), "white", CLEAN)
    _, covers = pretraining._patch_targets([scene], side=8)
    assert covers.shape == (1, 64, len(SHAPES))
    coloured = np.ptp(render(scene).astype(int), axis=2) > 60  # white has no colour
    shown = torch.from_numpy(coloured.reshape(8, 8, 8, 8).any(axis=(1, 3))).flatten()
    covered = covers[0].amax(dim=1).bool()
    assert (shown <= covered).all()
    assert (covered ^ shown).sum() <= 4  # covered by less than a pixel
    named = {shape for shape, any_patch in zip(SHAPES, covers[0].amax(dim=0), strict=True) if any_patch}
    assert named == {"circle", "star"}


def test_correct_answers_have_no_loss() -> None:
    scenes = data.random_scenes(np.random.default_rng(3), 4)
    offsets, covers = pretraining._patch_targets(scenes, side=8)
    tokens = torch.cat([offsets, 40.0 * (covers - 0.5)], dim=-1)
    embedded = 40.0 * (pretraining._targets(scenes) - 0.5)
    questions = pretraining.SceneQuestions(pretraining.QUESTIONS, pretraining._PATCH_QUESTIONS)
    with torch.no_grad():
        for layer in (questions.questions, questions.patches):
            layer.weight.copy_(torch.eye(layer.weight.shape[0]))
            layer.bias.zero_()
        assert questions.loss(embedded, tokens, scenes) < 1e-6
        assert questions.loss(-embedded, tokens, scenes) > 1
        assert questions.loss(embedded, tokens.flip(1), scenes) > 0.1


def test_pretraining_changes_only_the_vision_tower(world_clip: Path, tokenizer: Path, tmp_path: Path) -> None:
    plan = TrainingPlan("look", steps=30, lr=2e-3, batch=16, seed=1, warmup=3)
    model: Any = clip.load_clip(world_clip, len(CaptionTokenizer(tokenizer)))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    model.visual.output_tokens = True
    questions = pretraining.SceneQuestions(model.visual.output_dim, 128)
    student = torch.nn.ModuleDict({"model": model, "questions": questions})
    questions.pretrain(plan, student, lambda images: model.visual(clip.normalise_for_clip(images)), tmp_path)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert changed
    assert all(name.startswith("visual.") for name in changed)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "look.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]


def test_initial_position_embeddings_are_as_large_as_patches_and_all_differ() -> None:
    positions = pretraining.position_embeddings(8, 96)
    assert positions.shape == (64, 96)
    assert 0.5 < positions.std() < 1
    distance = torch.cdist(positions, positions) + 10 * torch.eye(64)
    assert distance.min() > 0.5
    # a step to the right changes only the half for columns
    torch.testing.assert_close(positions[0, :48], positions[1, :48])
    assert not torch.allclose(positions[0, 48:], positions[1, 48:])
