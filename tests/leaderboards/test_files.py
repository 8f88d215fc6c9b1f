"""Writing a board's files from Python, without torch."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import leaderboards
from leaderboards import build, write_board
from leaderboards.run_state import RunState
from tests.leaderboards.conftest import BLUR, BRIGHT


def test_python_api_builds_and_writes_a_board(runs: list[RunState], tmp_path: Path) -> None:
    board = leaderboards.build(runs[0].path.parent, baseline="base")
    files = leaderboards.write_board(board, tmp_path / "board", date="2026-01-31")
    names = [file.name for file in files]
    assert names == [
        "leaderboard.md",
        "leaderboard.csv",
        "leaderboard.wide.csv",
        "leaderboard.json",
        "leaderboard.tex",
        "differences.png",
    ]
    assert "2026-01-31" in files[0].read_text()


def test_building_a_board_does_not_import_torch(runs: list[RunState]) -> None:
    code = (
        "import sys, leaderboards\n"
        f"leaderboards.build({str(runs[0].path.parent)!r}, 'base')\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_table_says_which_scores_are_missing(make_run: Callable[..., RunState], tmp_path: Path) -> None:
    values: list[list[float | None]] = [[float(i % 7)] for i in range(40)]
    holes = [[None] if i < 16 else row for i, row in enumerate(values)]
    base = make_run("base", (BRIGHT, values), (BLUR, values), categories=("photo", "anime"))
    make_run("new", (BRIGHT, values), (BLUR, holes), categories=("photo", "anime"))
    write_board(build(base.path.parent, "base"), tmp_path)
    for name in ("leaderboard.md", "leaderboard.tex"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "[n = 24 of 40]" in text
        assert "incomplete: 24 of 40 images scored by blur" in text
    page = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "(n = 24 of 40)" in page.partition("<details")[0]  # the mean gain of the opening table
    assert "n = 12 of 20" in page  # a category
    with (tmp_path / "leaderboard.wide.csv").open(encoding="utf-8", newline="") as file:
        wide = {row["system"]: row for row in csv.DictReader(file)}
    assert [wide[label]["blur prompts"] for label in ("base", "new")] == ["40", "24"]
    assert [wide[label]["blur pairs"] for label in ("base", "new")] == ["", "24"]
    assert wide["new"]["notes"] == "incomplete: 24 of 40 images scored by blur"
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        long = {(row["system"], row["reward"], row["category"]): row for row in csv.DictReader(file)}
    cell = long["new", "blur", "photo"]
    assert [cell[key] for key in ("mean_prompts", "planned_prompts", "planned_samples")] == ["12", "20", "20"]
    assert cell["notes"].startswith("n = 12 of 20; incomplete")
    record = json.loads((tmp_path / "leaderboard.json").read_text(encoding="utf-8"))
    cells = {(c["system"], c["reward"], c["category"]): c for c in record["sections"][0]["cells"]}
    assert cells["new", "blur", None]["planned_prompts"] == 40


def test_an_unfinished_run_is_in_the_headline_and_in_the_coverage(
    make_run: Callable[..., RunState], unfinished_run: Callable[..., RunState], tmp_path: Path
) -> None:
    values: list[list[float | None]] = [[float(i % 7)] for i in range(48)]
    runs = [make_run("base", (BRIGHT, values)), unfinished_run("killed", images=16, planned=48)]
    write_board(build(runs, "base"), tmp_path)
    page = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "16 of 48 images, incomplete" in page.partition("<details")[0]
    coverage = page.partition("### Coverage")[2].partition("</details>")[0]
    reasons = "32 × not generated yet; 16 × not scored by this reward"
    assert f"| killed | 16 of 48, incomplete | bright | 0 of 48 | {reasons} |" in coverage
    (section,) = json.loads((tmp_path / "leaderboard.json").read_text(encoding="utf-8"))["sections"]
    killed = next(system for system in section["systems"] if system["label"] == "killed")
    assert (killed["images"], killed["planned_images"]) == (16, 48)
    assert [(row["scored"], row["missing"]) for row in section["coverage"]] == [
        (48, {}),
        (0, {"not generated yet": 32, "not scored by this reward": 16}),
    ]


def test_a_board_of_an_unfinished_run_alone_says_so(
    unfinished_run: Callable[..., RunState], tmp_path: Path
) -> None:
    write_board(build([unfinished_run("killed", images=16, planned=48)], "killed"), tmp_path)
    page = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert page.count("16 of 48 images, incomplete") >= 2
