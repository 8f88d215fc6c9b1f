"""The blind test's count: shares as by hand, and answers that cannot be counted are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "blind_test.py"


def count(folder: Path, answers: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (folder / "key.json").write_text(json.dumps({"1": "left", "2": "right", "3": "left", "4": "left"}))
    (folder / "judge.json").write_text(json.dumps(answers))
    command = [sys.executable, str(SCRIPT), "count", str(folder), str(folder / "judge.json")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_count(tmp_path: Path) -> None:
    better = ["left", "left", "tie", "left"]  # right, wrong, tie, right
    answers = {str(n): {"better": side, "fits": "tie"} for n, side in enumerate(better, 1)}
    result = count(tmp_path, answers)
    assert result.returncode == 0
    # Wilson's interval of 2 in 3
    assert "second 2, first 1, ties 1; share of the second 0.667 [0.208, 0.939]" in result.stdout
    assert "fits its prompt better: 4 ties" in result.stdout


@pytest.mark.parametrize("wrong", [{"better": "Left", "fits": "tie"}, {"better": "left"}, {}])
def test_answers_that_cannot_be_counted(tmp_path: Path, wrong: dict[str, str]) -> None:
    answers = {str(n): {"better": "left", "fits": "tie"} for n in range(1, 4)} | {"4": wrong}
    result = count(tmp_path, answers)
    assert result.returncode == 1
    assert "of pair 4 is" in result.stderr
    assert "expected one of left, right, tie" in result.stderr
    assert "Traceback" not in result.stderr
