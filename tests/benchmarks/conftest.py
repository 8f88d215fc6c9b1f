"""Fixtures of the runner's tests: a toy reward in a file, a prompt file, and requests for tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.planning import Request

TOY = '''
from rewards import Reward, RewardInfo, register

@register(RewardInfo("toy-brightness", differentiable=True, uses_prompt=False))
class Brightness(Reward):
    def _score(self, pixels, prompts):
        return pixels.mean((1, 2, 3))

@register(RewardInfo("toy-picky"))
class Picky(Reward):
    """Cannot judge dogs, breaks on cows."""
    def _score(self, pixels, prompts):
        if any("cow" in prompt for prompt in prompts):
            raise RuntimeError("no cows please")
        judged = [float("nan") if "dog" in prompt else len(prompt) for prompt in prompts]
        return pixels.new_tensor(judged)
'''

PROMPTS = "prompt,category\n" + "".join(
    f"{animal} {number},{animal}s\n" for number in range(4) for animal in ("a cat", "a dog")
)


@pytest.fixture
def toy_rewards(tmp_path: Path) -> Path:
    """A file outside the repository that defines the rewards Brightness and Picky."""
    file = tmp_path / "toys.py"
    file.write_text(TOY)
    return file


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    """Eight prompts in two categories."""
    file = tmp_path / "pets.csv"
    file.write_text(PROMPTS)
    return file


@pytest.fixture
def request_for(
    tiny_pipeline: Path, toy_rewards: Path, prompt_file: Path, tmp_path: Path
) -> Callable[..., Request]:
    """Makes requests for runs of the tiny pipeline in two steps on the CPU; keywords change them."""

    def make(**changes: Any) -> Request:
        settings: dict[str, Any] = {
            "model": str(tiny_pipeline),
            "prompts": prompt_file,
            "rewards": [f"{toy_rewards}:Brightness"],
            "steps": 2,
            "batch_size": 3,
            "device": "cpu",
            "out": tmp_path / "runs",
        }
        return Request(**settings | changes)

    return make
