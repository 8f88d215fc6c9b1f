"""`tcbench compare` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cli import main
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState

MakeRun = Callable[..., RunState]

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")
BLUR = ScoreSet("blur", "c" * 12, higher_is_better=False, role="judge", family="other")


@pytest.fixture
def runs(make_run: MakeRun) -> Path:
    """Two runs of 120 prompts; the second is brighter except on prompt 2."""
    level = np.random.default_rng(0).normal(size=(120, 1))
    gain = np.full((120, 1), 0.5)
    gain[2], gain[7] = -4.0, 3.0
    prompts = [f"prompt {number}" for number in range(120)]
    make_run("old", (BRIGHT, level.tolist()), (BLUR, level.tolist()), prompts=prompts, images=True)
    changed = (BRIGHT, (level + gain).tolist()), (BLUR, level.tolist())
    return make_run("new", *changed, prompts=prompts, images=True).path.parent


def compare(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_prints_comparison_and_largest_changes(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("old", "new", "--runs", runs, "--prompts", 1, "--rewards", "bright") == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.strip().startswith("bright") and "new" in line]
    assert "▲ better" in line
    losses, gains = (lines[lines.index(f"largest {what}:") + 1] for what in ("losses", "gains"))
    assert losses.split()[:3] == ["-4", "'prompt", "2'"]
    assert gains.split()[:3] == ["+3", "'prompt", "7'"]
    assert gains.endswith("images/00007-0.png")


def test_json_has_every_prompt(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [next(runs.glob(f"toy-{name}-*")) for name in ("old", "new")]
    assert compare(*folders, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert {cell["reward"] for cell in record["cells"]} == {"bright", "blur"}
    assert len(record["prompts"]) == 120
    assert record["prompts"][0]["prompt_id"] == 2


def test_runs_that_cannot_be_compared_are_an_error_of_one_line(
    runs: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("old", "nev", "--runs", runs) == 2
    assert "did you mean new?" in capsys.readouterr().err
    assert compare("old", "new", "--runs", runs, "--rewards", "sharp") == 1
    assert "both runs must have scores by sharp; in common: bright, blur" in capsys.readouterr().err
    make_run("new", (BRIGHT, [[1.0]]), settings={"steps": 3})
    assert compare("old", "new", "--runs", runs) == 1
    assert "new has several runs; give one of" in capsys.readouterr().err
    art = make_run("art", (BRIGHT, [[1.0]]), suite="art")
    assert compare(next(runs.glob("toy-old-*")), art.path) == 1
    error = capsys.readouterr().err
    assert "are runs of toy and art; give runs of one suite" in error
    assert len(error.splitlines()) == 1
