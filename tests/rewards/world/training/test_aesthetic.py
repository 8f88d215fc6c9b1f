"""world-aesthetic: a head on world-clip that is fitted to the rule and saved as the LAION predictor is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import rewards
from rewards.world.aesthetics import judge
from rewards.world.pixels import to_bytes
from rewards.world.training import aesthetic, clip, data


def test_the_head_learns_the_rule_and_scores_from_its_file(
    tokenizer: Path, world_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aesthetic, "PICTURES", 120)
    plan = replace(aesthetic.PLAN, lr=3e-3, steps=500, batch=60, warmup=5)
    head = aesthetic.train(tokenizer, world_clip, tmp_path, plan)
    aesthetic.save(head, tmp_path / "saved")
    files = {"backbone": world_clip, "tokenizer": tokenizer, "head": tmp_path / "saved" / "head.safetensors"}
    assert {file.key for file in rewards.info("world-aesthetic").weights} == set(files)
    reward = rewards.load("world-aesthetic", weights=files)
    rng = np.random.default_rng(plan.seed)  # the pictures it was fitted to
    images = data.soften(rng, data.pictures(rng, data.random_scenes(rng, 120)))
    target = torch.tensor([judge(image).score for image in to_bytes(images)])
    model: Any = clip.load(world_clip, len(clip.Tokens(tokenizer)))
    with torch.inference_mode():
        scores = reward.score(images)
        embedded = F.normalize(model.encode_image(clip.normalise(images)), dim=-1)
        torch.testing.assert_close(scores, head(embedded), rtol=0.02, atol=0.05)
    # even the embedding of an untrained CLIP says a little
    assert scores.mean().item() == pytest.approx(target.mean().item(), abs=0.3)
    assert torch.corrcoef(torch.stack([scores, target]))[0, 1] > 0.3


def test_training_is_reproducible_and_resumable(
    tokenizer: Path, world_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aesthetic, "PICTURES", 12)
    plan = replace(aesthetic.PLAN, steps=3, batch=4, warmup=1)
    first = aesthetic.train(tokenizer, world_clip, tmp_path / "first", plan).state_dict()
    torch.randn(3)
    for folder in ("first", "second"):  # finished, and from the start
        other = aesthetic.train(tokenizer, world_clip, tmp_path / folder, plan).state_dict()
        assert all(torch.equal(value, other[name]) for name, value in first.items())
