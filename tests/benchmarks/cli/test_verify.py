"""`tcbench verify` prints what was compared, and fails when something differs."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

from benchmarks.cli import main
from rewards.verification import parity
from rewards.weights.lock import WeightsLock


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(["verify", *arguments])
    return int(done.value.code or 0)


def test_results_are_printed_reported_and_documented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, docs = tmp_path / "report.json", tmp_path / "parity.md"
    assert run("world-clip", "world-oracle", "--report", str(report), "--docs", str(docs)) == 0
    out = capsys.readouterr().out
    assert "world-clip" in out
    assert "none: this project's own definition" in out
    results = json.loads(report.read_text(encoding="utf-8"))
    assert [row["ok"] for row in results["parity"]] == [True, True]
    assert results["environment"]["versions"]["torch"]
    assert "| world-clip | clip-64 |" in docs.read_text(encoding="utf-8")


def test_published_scores_that_were_not_checked_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hpsv2") == 0
    assert "published scores of hpsv2: not checked: weights missing" in capsys.readouterr().out


def test_a_reward_that_is_not_compared_is_not_called_ok(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "FACTS", {})
    assert run("world-clip") == 0
    out, err = capsys.readouterr()
    assert "world-clip: not compared, none: no published facts" in err
    assert "own definition" not in out


def test_a_different_reward_exits_with_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = count()
    other = lambda files, image, prompt: float(next(numbers))  # noqa: E731
    monkeypatch.setattr(parity._Reference, "scorer", lambda self, record: other)
    assert run("jpeg-compressibility", "world-aesthetic") == 4
    assert "world-aesthetic: DIFFERS" in capsys.readouterr().err


def test_unknown_name_and_empty_folder_are_one_line_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("hpsv") == 2
    assert "did you mean hpsv" in capsys.readouterr().err
    assert run("world-clip", "--images", str(tmp_path)) == 1
    assert "has 0 images; give a folder with at least 6" in capsys.readouterr().err


def test_temporary_weights_are_not_recorded_in_the_users_lock_file() -> None:
    assert run("clip-iqa") == 0  # on random weights in a temporary folder
    lock = WeightsLock()
    assert lock.recorded() == {}
    assert lock.cached_files() == {}
    assert not lock.path.exists()
