"""The shipped weights are of trained models: they know captions, good images and their raters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rewards
from rewards.world.training import evaluate

COUNT = 200
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("name", "near_miss", "retrieval"),
    [("world-clip", 0.9, 0.9), ("world-siglip", 0.9, 0.9)],
)
def test_alignment_rewards_prefer_the_right_caption(name: str, near_miss: float, retrieval: float) -> None:
    accuracies = evaluate.measure_alignment(rewards.load(name), COUNT, seed=1, retrieved=50)
    assert accuracies["near_miss"] > near_miss
    assert accuracies["retrieval"] > retrieval


@pytest.mark.parametrize("name", ["world-pick", "world-hps", "world-blip"])
def test_preference_rewards_agree_with_their_raters(name: str) -> None:
    assert (
        evaluate.measure_preference(rewards.load(name), evaluate.RATERS[name], COUNT, seed=2)["pairs"] > 0.7
    )


@pytest.mark.parametrize("name", ["world-pick", "world-hps", "world-blip"])
def test_preference_rewards_use_the_prompt(name: str) -> None:
    """Of two images in one style they prefer the one that fits the prompt; quality alone would be chance."""
    assert evaluate.measure_alignment(rewards.load(name), COUNT, seed=4, retrieved=0)["picture"] > 0.7


def test_the_aesthetic_follows_the_rule() -> None:
    accuracies = evaluate.measure_correlation(
        rewards.load("world-aesthetic"), rewards.load("world-rule"), COUNT, seed=3
    )
    assert accuracies["pearson_with_rule"] > 0.75


def test_the_first_example_of_the_readme_runs_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert first is not None
    assert len([line for line in first.group(1).splitlines() if line]) == 5
    exec(first.group(1), {})
    assert float(re.findall(r"tensor\((.*?)\)", capsys.readouterr().out)[0]) > 0
