"""`tcbench leaderboard` from the command line: files, table, exit codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from benchmarks.cli import main
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")


@pytest.fixture
def runs(make_run: Callable[..., RunState]) -> Path:
    """Two systems on one suite; the baseline also on another suite with four styles."""
    styles = {"suite": "styles", "categories": ("anime", "concept-art", "paintings", "photo")}
    values = [[i % 7 / 7] for i in range(8)]
    make_run("base", (BRIGHT, values), images=True)
    make_run("new", (BRIGHT, [[value + 0.1 * i] for i, (value,) in enumerate(values)]), images=True)
    return make_run("base", (BRIGHT, values), **styles).path.parent


def leaderboard(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["leaderboard", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_writes_tables_and_pictures_and_prints_their_paths(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "some" / "board"
    assert leaderboard(runs, "--baseline", "base", "--out", board) == 0
    suffixes = ("md", "csv", "wide.csv", "json", "tex")
    files = [*(f"leaderboard.{suffix}" for suffix in suffixes), "differences.png", "samples.png"]
    assert sorted(file.name for file in board.iterdir()) == sorted(files)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-7:] == [str(board / name) for name in files]
    assert "suite styles, baseline base" in lines
    header = ["rank", "system", "trained", "on", "held", "out", "judges", "verdict"]
    assert any(line.split() == header for line in lines)
    assert any("new" in line and "no claim" in line for line in lines)
    page = (board / "leaderboard.md").read_text()
    assert all(style in page for style in ("anime", "concept-art", "paintings", "photo"))


def test_same_runs_give_the_same_files(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        leaderboard(runs, "--baseline", "base", "--out", tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_picture_of_an_earlier_board_is_removed(runs: Path, tmp_path: Path) -> None:
    leaderboard(runs, "--baseline", "base", "--out", tmp_path)
    (alone,) = runs.glob("styles-*")
    leaderboard(alone, "--baseline", "base", "--out", tmp_path)
    assert not (tmp_path / "differences.png").exists()


def test_damaged_image_is_left_out_of_the_grid(runs: Path, tmp_path: Path) -> None:
    for image in runs.glob("*/images/00000-0.png"):
        image.write_bytes(image.read_bytes()[:40])
    assert leaderboard(runs, "--baseline", "base", "--out", tmp_path / "board") == 0
    assert (tmp_path / "board" / "samples.png").is_file()


def test_unknown_baseline_gets_close_matches(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaderboard(runs, "--baseline", "bse", "--out", tmp_path / "board") == 2
    error = capsys.readouterr().err
    assert "did you mean base?" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "board").exists()


def test_missing_run_folder_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leaderboard(tmp_path / "nowhere", "--baseline", "base") == 1
    assert "run folder not found" in capsys.readouterr().err


def test_different_score_ids_are_a_mismatch(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = runs.glob("toy-new-*")
    folder = run / "scores" / BRIGHT.folder
    folder.rename(folder.with_name(replace(BRIGHT, score_id="e" * 12).folder))
    moved = folder.with_name(replace(BRIGHT, score_id="e" * 12).folder) / "reward.json"
    moved.write_text(moved.read_text().replace("b" * 12, "e" * 12))
    assert leaderboard(runs, "--baseline", "base", "--out", tmp_path / "board") == 4
    assert "e" * 12 in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["60", "120"])
def test_table_fits_the_terminal(
    columns: str,
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    leaderboard(runs, "--baseline", "base", "--out", tmp_path / "board")
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith(str(tmp_path))) <= int(columns)


def test_a_board_is_not_wrapped_in_a_pipe(
    make_run: Callable[..., RunState],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "a name of more columns than a terminal has, " * 3
    for number, system in enumerate(("base", name)):
        make_run(system, (BRIGHT, [[i % 7 + number] for i in range(8)]))
    monkeypatch.delenv("COLUMNS", raising=False)
    assert leaderboard(tmp_path / "runs", "--baseline", "base", "--out", tmp_path / "b") == 0
    assert any(name.strip() in line for line in capsys.readouterr().out.splitlines())


def test_a_board_of_many_systems_fits_the_terminal(
    make_run: Callable[..., RunState],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [
        "base",
        "a long name of a system, trained with many settings",
        "_".join(["unbroken"] * 7),
        "新しい" * 9,
    ]
    for number, name in enumerate(names):
        settings = {"guidance": float(number), "steps": 25}
        make_run(name, (BRIGHT, [[i % 7 + number] for i in range(8)]), settings=settings)
    monkeypatch.setenv("COLUMNS", "72")
    assert leaderboard(tmp_path / "runs", "--baseline", "base", "--out", tmp_path / "b") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path) not in line]
    assert max(map(cell_len, lines)) <= 72
    assert len(lines) > 12
