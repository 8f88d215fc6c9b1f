"""Published scores: met, not met, or not checked, and never a silent pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rewards.verification import published
from rewards.verification.published import PUBLISHED, Published, check_published


def test_without_weights_nothing_is_checked(shared_data: Path) -> None:
    for name in PUBLISHED:
        found = check_published(name, shared_data)
        assert found.status == "not checked: weights missing"
        assert found.found == ()


class Fixed:
    """A reward that gives what it is told."""

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
    monkeypatch.setattr(published, "check", lambda *_, **__: {"checkpoint": weights})
    monkeypatch.setattr(published, "load", lambda _: Fixed(score))
    found = check_published("hpsv2", shared_data)
    assert found.status == "checked"
    assert found.ok is ok
    assert found.weights is not None
    assert len(found.weights["checkpoint"]) == 64


def test_without_the_pictures_nothing_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(published, "check", lambda *_, **__: {})
    assert check_published("hpsv2", tmp_path).status == "not checked: pictures missing"
    assert check_published("hpsv2", None).status == "not checked: pictures missing"


def test_the_published_values_are_those_of_the_reference_data(shared_data: Path) -> None:
    import json

    expected = json.loads((shared_data / "golden/expected.json").read_text(encoding="utf-8"))
    ours: Published = PUBLISHED["imagereward"]
    assert list(ours.scores) == expected["imagereward_v1"]["scores"]
    assert ours.prompt == expected["imagereward_v1"]["prompt"]
    assert PUBLISHED["hpsv2"].scores == (expected["hpsv2"]["score"],)
