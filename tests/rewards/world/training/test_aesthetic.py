"""world-aesthetic: a head on world-clip, fitted to the rule and saved like the LAION predictor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import rewards
from rewards.preprocess import to_bytes
from rewards.world.aesthetics import AestheticParts
from rewards.world.scenes import Style
from rewards.world.training import aesthetic, clip, data
from rewards.world.training.tokenizer import CaptionTokenizer


def test_the_head_learns_the_rule_and_its_file_gives_its_scores(
    tokenizer: Path, world_clip: Path, build_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aesthetic, "IMAGES", 120)
    plan = replace(aesthetic.PLAN, lr=3e-3, steps=250, batch=60, warmup=5)
    head = aesthetic.train_aesthetic(build_folder, plan)
    path = build_folder / "world-aesthetic" / "head.safetensors"
    files = {"backbone": world_clip, "tokenizer": tokenizer, "head": path}
    assert {file.key for file in rewards.info("world-aesthetic").weights} == set(files)
    reward = rewards.load("world-aesthetic", weights=files)
    rng = np.random.default_rng(plan.seed)  # the images it was fitted to
    images = data.render_batch(data.random_scenes(rng, 120, looks=Style.even), rng)
    target = torch.tensor([AestheticParts.measure(image).score for image in to_bytes(images)])
    model: Any = clip.load_clip(world_clip, len(CaptionTokenizer(tokenizer)))
    with torch.inference_mode():
        scores = reward.score(images)
        embedded = F.normalize(model.encode_image(clip.normalise_for_clip(images)), dim=-1)
        torch.testing.assert_close(scores, head(embedded), rtol=0.02, atol=0.05)
    # even the embedding of an untrained CLIP has some information
    assert scores.mean().item() == pytest.approx(target.mean().item(), abs=0.3)
    assert torch.corrcoef(torch.stack([scores, target]))[0, 1] > 0.3


def test_training_is_reproducible_and_a_finished_state_is_loaded(
    build_folder: Path, other_build_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aesthetic, "IMAGES", 12)
    plan = replace(aesthetic.PLAN, steps=3, batch=4, warmup=1)
    first = aesthetic.train_aesthetic(build_folder, plan).state_dict()
    torch.randn(3)
    for folder in (build_folder, other_build_folder):  # finished, and from the start
        other = aesthetic.train_aesthetic(folder, plan).state_dict()
        assert all(torch.equal(value, other[name]) for name, value in first.items())
