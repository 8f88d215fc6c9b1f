"""The scripts in examples/ run on the embedded world, and README.md lists every reward."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import rewards
from rewards import registry
from rewards.builtin import BUILTIN

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))

RunExample = Callable[..., str]


@pytest.fixture
def run_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> RunExample:
    """Run a script of examples/ in a temporary folder and return what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_shorter_than_60_lines(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) < 60


def test_score_images_prints_one_line_per_image(run_example: RunExample, tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
    output = run_example(
        "score_images.py", "a large red circle", "red.png", "blue.png", "--rewards", "world-clip,world-oracle"
    )
    header, *rows = output.splitlines()
    assert header.split() == ["image", "world-clip", "world-oracle"]
    assert [row.split()[0] for row in rows] == ["red.png", "blue.png"]
    assert float(rows[0].split()[1]) > float(rows[1].split()[1])


def test_custom_reward_rises_along_its_gradient(run_example: RunExample) -> None:
    output = run_example("custom_reward.py")
    scores = [float(value) for value in re.findall(r"contrast ([\d.]+)", output)]
    assert len(scores) == 5
    assert scores == sorted(scores)


def test_tune_encoder_writes_a_model(run_example: RunExample, tmp_path: Path) -> None:
    arguments = ("--profile", "quick", "--updates", "1", "--rewards", "world-pick=1")
    output = run_example("tune_encoder.py", *arguments, "--device", "cpu", "--out", "tuned")
    assert "training micro on world-pick=1" in output
    assert "next: tcbench run --model tuned" in output
    assert (tmp_path / "tuned" / "system.toml").is_file()


def test_compare_encoders_writes_a_board(run_example: RunExample, tmp_path: Path) -> None:
    arguments = ("compare_encoders.py", "--limit", "2", "--rewards", "world-clip")
    run_example(*arguments)
    files = {file.name for file in (tmp_path / "comparison" / "board").iterdir()}
    assert {"leaderboard.md", "leaderboard.csv", "samples.png"} <= files
    runs = [path.name for path in (tmp_path / "comparison" / "runs").iterdir()]
    assert sorted(name.rpartition("-")[0] for name in runs) == ["world-micro", "world-micro+style_words"]


def test_guidance_raises_the_reward_mix(run_example: RunExample, tmp_path: Path) -> None:
    output = run_example("guide_generation_with_a_panel.py", "--steps", "6", "--out", "guided")
    plain, guided = (float(value) for value in re.findall(r"mix (-?[\d.]+)", output))
    assert guided > plain
    assert len(list((tmp_path / "guided").glob("*.png"))) == 4


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_code_of_tutorials_runs() -> None:
    blocks = [block for page in TUTORIALS for block in code_blocks(page) if not block.startswith("--8<--")]
    assert blocks
    for block in blocks:
        exec(block, {})


def test_examples_that_tutorials_include_exist() -> None:
    included = [
        name
        for page in TUTORIALS
        for name in re.findall(r'^--8<-- "([^"]+)"', page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert included
    assert [name for name in included if not (ROOT / name).is_file()] == []


def test_readme_lists_every_reward() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Rewards")[2]
    rows = {
        name: line
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line)
    }
    for name in BUILTIN:  # other tests register rewards of their own
        info = rewards.info(name)
        assert name in rows
        assert info.licence in rows[name]
        assert rows[name].endswith("| yes |" if info.differentiable else "| no |")
