"""`tcbench verify` says what was compared, and fails when something differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from rewards.verification import parity


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(["verify", *arguments])
    return int(done.value.code or 0)


def test_a_reward_that_agrees_is_a_row_a_report_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, docs = tmp_path / "report.json", tmp_path / "parity.md"
    assert run("world-clip", "world-oracle", "--report", str(report), "--docs", str(docs)) == 0
    out = capsys.readouterr().out
    assert "world-clip" in out
    assert "none: this project's own definition" in out
    found = json.loads(report.read_text(encoding="utf-8"))
    assert [row["ok"] for row in found["parity"]] == [True, True]
    assert found["environment"]["versions"]["torch"]
    assert "| world-clip | clip-64 |" in docs.read_text(encoding="utf-8")


def test_published_scores_that_could_not_be_checked_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hpsv2") == 0
    assert "published scores of hpsv2: not checked: weights missing" in capsys.readouterr().out


def test_a_reward_that_differs_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "BOUND", -1.0)  # some machines give the very same bits on both ways
    assert run("jpeg-compressibility", "world-aesthetic") == 4
    assert "world-aesthetic: DIFFERS" in capsys.readouterr().err


def test_an_unknown_name_and_an_empty_folder_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("hpsv") == 2
    assert "did you mean hpsv" in capsys.readouterr().err
    assert run("world-clip", "--images", str(tmp_path)) == 1
    assert "has 0 pictures; give a folder with at least 6" in capsys.readouterr().err
