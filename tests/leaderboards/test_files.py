"""Writing a board's files from Python, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import leaderboards
from leaderboards.run_state import RunState


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
