"""The examples of docs/rewards.md do what the text says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rewards
from rewards import registry
from rewards.base import Reward
from rewards.preprocess import PROFILES

PAGE = Path(__file__).resolve().parents[2] / "docs/rewards.md"


@pytest.fixture
def examples() -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(found) == 2
    return found


@pytest.fixture
def _forget_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def test_the_first_example_scores_and_gives_gradients(
    examples: list[str],
    tiny: Callable[[str], Reward],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rewards, "load", tiny)  # the shipped weights have tests of their own
    exec(examples[0], {})
    assert capsys.readouterr().out == "torch.Size([2]) tensor(True)\n"


@pytest.mark.usefixtures("_forget_registered")
def test_the_example_of_a_reward_of_ones_own_works_from_its_file(examples: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sharpness.py"
    path.write_text(examples[1], encoding="utf-8")
    reward = rewards.load(f"{path}:Sharpness")
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 3, 8, 8)
    assert reward.info.name == "sharpness"
    assert reward.score(torch.cat([stripes, stripes * 0]).contiguous()).tolist() == [1, 0]


def test_names_on_the_page_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    known = {*rewards.names(), *PROFILES}
    said = set(re.findall(r"`([a-z0-9.]+(?:-[a-z0-9]+)+|hpsv2(?:\.1)?)`", page))
    assert said
    assert said <= known
