"""The examples of docs/rewards.md and of the package's docstrings run and print what they say."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import rewards
from rewards import registry
from rewards.base import Reward
from rewards.preprocess import PROFILES
from rewards.verification import contract

PAGE = Path(__file__).resolve().parents[2] / "docs/rewards.md"


Examples = dict[str, list[str]]


@pytest.fixture
def examples() -> Examples:
    """Python examples by heading."""
    blocks_by_heading = {}
    for section in re.split("^#+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        blocks = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        if blocks:
            blocks_by_heading[section.partition("\n")[0]] = blocks
    return blocks_by_heading


@pytest.fixture
def _forget_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def test_first_example_prints_shape_and_gradient(
    examples: Examples,
    tiny: Callable[[str], Reward],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rewards, "load", tiny)  # the shipped weights have their own tests
    exec(examples["Rewards"][0], {})
    assert capsys.readouterr().out == "torch.Size([2]) tensor(True)\n"


@pytest.mark.usefixtures("_forget_registered")
def test_reward_example_loads_from_a_file(examples: Examples, tmp_path: Path) -> None:
    path = tmp_path / "sharpness.py"
    path.write_text(examples["Your own reward"][0], encoding="utf-8")
    reward = rewards.load(f"{path}:Sharpness")
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 3, 8, 8)
    assert reward.info.name == "sharpness"
    assert reward.score(torch.cat([stripes, stripes * 0]).contiguous()).tolist() == [1, 0]


@pytest.mark.usefixtures("_forget_registered")
def test_example_with_weights_keeps_the_contract(examples: Examples, tmp_path: Path) -> None:
    path, head = tmp_path / "rated.py", tmp_path / "head.safetensors"
    path.write_text(examples["Your own reward"][1], encoding="utf-8")
    torch.manual_seed(0)
    layer = torch.nn.Linear(192, 1)
    save_file(layer.state_dict(), head)
    reward = rewards.load(f"{path}:Rated", weights={"head": head})
    contract.check(reward)
    grey = reward.score(torch.full((1, 3, 80, 90), 0.5)).item()
    level = (128 / 255 * layer.weight.sum() + layer.bias).item()  # 0.5 is rounded to a level of 8 bits
    assert grey == pytest.approx(level, abs=1e-5)
    save_file({"weight": layer.weight.data}, half := tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="bias: missing"):
        rewards.load(f"{path}:Rated", weights={"head": half})


@pytest.mark.parametrize(
    ("heading", "number", "printed"),
    [
        ("Several rewards", 0, "{'world-clip': torch.Size([2]), 'world-aesthetic': torch.Size([2]), "),
        ("Several rewards", 1, "tensor(["),
        ("In your own loop", 0, "(2,) ['world-pick', 'world-aesthetic', 'avg']\n"),
    ],
)
def test_examples_print_the_expected_output(
    examples: Examples, heading: str, number: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(examples[heading][number], names)
    assert capsys.readouterr().out.startswith(printed)
    if "decoded" in names:
        assert (names["decoded"].grad.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_every_example_is_tested(examples: Examples) -> None:
    counts = {heading: len(blocks) for heading, blocks in examples.items()}
    assert counts == {"Rewards": 1, "Several rewards": 2, "Your own reward": 2, "In your own loop": 1}


def test_reward_and_profile_names_on_the_page_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    known = {*rewards.list(), *PROFILES}
    mentioned = set(re.findall(r"`([a-z0-9.]+(?:-[a-z0-9]+)+|hpsv2(?:\.1)?)`", page))
    assert mentioned
    assert mentioned <= known


@pytest.mark.parametrize("module", [rewards, registry])
def test_docstring_examples_run(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
