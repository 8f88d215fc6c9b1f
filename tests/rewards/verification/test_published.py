"""Published scores are reproduced, not reproduced, or not checked, and never pass silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rewards.verification import published
from rewards.verification.published import PUBLISHED, check_published


def test_without_weights_nothing_is_checked(shared_data: Path) -> None:
    for name in PUBLISHED:
        result = check_published(name, shared_data)
        assert result.status == "not checked: weights missing"
        assert result.scores == ()


class FixedReward:
    """A reward with fixed scores."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def score(self, images: object, prompts: object) -> torch.Tensor:
        return torch.tensor(self.scores)


@pytest.mark.parametrize(("score", "ok"), [(0.2880, True), (0.2920, False)])
def test_with_weights_the_scores_are_compared(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, score: float, ok: bool
) -> None:
    weights = tmp_path / "checkpoint.pt"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(published, "locate_weights", lambda *_, **__: {"checkpoint": weights})
    monkeypatch.setattr(published, "load", lambda _: FixedReward(score))
    result = check_published("hpsv2", shared_data)
    assert result.status == "checked"
    assert result.ok is ok
    assert result.weights is not None
    assert len(result.weights["checkpoint"]) == 64
    assert result.to_json()["found"] == pytest.approx((score,))


def test_without_the_images_nothing_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(published, "locate_weights", lambda *_, **__: {})
    assert check_published("hpsv2", tmp_path).status == "not checked: pictures missing"
    assert check_published("hpsv2", None).status == "not checked: pictures missing"


def test_published_values_equal_the_reference_data(shared_data: Path) -> None:
    expected = json.loads((shared_data / "golden/expected.json").read_text(encoding="utf-8"))
    ours = PUBLISHED["imagereward"]
    assert list(ours.values) == expected["imagereward_v1"]["scores"]
    assert ours.prompt == expected["imagereward_v1"]["prompt"]
    assert PUBLISHED["hpsv2"].values == (expected["hpsv2"]["score"],)
