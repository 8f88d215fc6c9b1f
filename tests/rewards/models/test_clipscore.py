from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import rewards
from rewards.backbones.tokens import OpenClipTokenizer
from rewards.base import Reward
from rewards.models.clipscore import ClipScore

IMAGES = torch.linspace(1, 0, 3 * 224 * 224).reshape(1, 3, 224, 224)


def cosine(reward: Reward, text: str) -> float:
    """Cosine computed by open_clip."""
    assert isinstance(reward, ClipScore)
    model = reward.towers.model
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (reward.profile.mean, reward.profile.std))
    pixels = ((IMAGES * 255 + 0.5).floor() / 255 - mean) / std
    text_features = model.encode_text(OpenClipTokenizer()([text]).ids)
    return F.cosine_similarity(model.encode_image(pixels), text_features).item()


@pytest.mark.parametrize(
    ("name", "factor", "prefix"),
    [("clip", 100.0, ""), ("clip-cosine", 1.0, ""), ("clip-hessel", 2.5, "A photo depicts ")],
)
def test_each_convention_matches_its_formula(
    tiny: Callable[[str], Reward], name: str, factor: float, prefix: str
) -> None:
    reward = tiny(name)
    expected = factor * cosine(reward, f"{prefix}a red circle")
    assert expected > 0 or not prefix, "only a positive cosine shows the factor of a clipped score"
    assert reward.score(IMAGES, ["a red circle"]).item() == pytest.approx(expected, rel=1e-4)


def test_logits_convention_uses_the_models_scale(tiny: Callable[[str], Reward]) -> None:
    reward = tiny("clip-logits")
    assert isinstance(reward, ClipScore)
    scale = reward.towers.model.logit_scale.exp().item()
    assert scale == pytest.approx(1 / 0.07, rel=1e-3)  # initial value of every CLIP
    assert reward.score(IMAGES, ["a"]).item() == pytest.approx(scale * cosine(reward, "a"), rel=1e-4)


def test_hessel_convention_clips_negative_cosines(
    tiny: Callable[[str], Reward], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = tiny("clip-hessel")
    assert isinstance(reward, ClipScore)
    embed = reward.towers.embed_prompts
    monkeypatch.setattr(reward.towers, "embed_prompts", lambda prompts: -embed(prompts))
    assert reward.score(IMAGES, ["a"]).tolist() == [0]


def test_prefix_counts_towards_the_token_limit(tiny: Callable[[str], Reward]) -> None:
    words = [" ".join(["cat"] * count) for count in (72, 73, 75, 76)]
    assert tiny("clip").truncated(words) == 1
    assert tiny("clip-hessel").truncated(words) == 3


def test_unknown_convention_is_refused(tiny_files: Callable[[str], dict[str, Path]]) -> None:
    record = replace(rewards.info("clip"), options={"convention": "percent"})
    with pytest.raises(ValueError, match="unknown CLIPScore convention 'percent'; available: hessel"):
        rewards.load(record, weights=tiny_files("clip"))
