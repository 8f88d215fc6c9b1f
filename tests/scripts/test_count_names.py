"""The script that counts public names: what it counts, and its exit code at the limits."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "count_names.py"

FILES = {
    "zoo/__init__.py": "",
    "zoo/a.py": "from zoo import b\nclass Cat: ...\ndef feed(): b.feed()\ndef _hide(): ...\n",
    "zoo/b.py": "def feed(): ...\nasync def play(): feed()\n",
    "tests/test_a.py": "from zoo.b import play\ndef test_play(): play()\n",
    "untracked.py": "def extra(): ...\n",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "zoo", "tests"], cwd=tmp_path, check=True)
    return tmp_path


def count(repository: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(script["main"].__globals__, "_ROOT", repository)
    monkeypatch.setattr("sys.argv", ["count_names.py", *arguments])
    script["main"]()


def test_it_counts_tracked_public_names_outside_tests(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count(repository, monkeypatch, "--list", "--unused")
    assert capsys.readouterr().out.splitlines() == [
        "feed: zoo/a.py, zoo/b.py",
        "zoo/a.py: Cat",
        "zoo/a.py: feed",
        "zoo/b.py: play",
        "public names: 4, defined in more than one file: 1",
    ]


@pytest.mark.parametrize(("names", "duplicates", "passes"), [(4, 1, True), (3, 1, False), (4, 0, False)])
def test_it_fails_above_a_limit(
    repository: Path, monkeypatch: pytest.MonkeyPatch, names: int, duplicates: int, passes: bool
) -> None:
    arguments = ("--max-names", str(names), "--max-duplicates", str(duplicates))
    if passes:
        count(repository, monkeypatch, *arguments)
    else:
        with pytest.raises(SystemExit, match="more than allowed"):
            count(repository, monkeypatch, *arguments)


def test_word_counts_identifiers_but_not_text(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "zoo/b.py").write_text('feed = "feed"  # feed\nzoo.feed(feed=1)\n', encoding="utf-8")
    count(repository, monkeypatch, "--word", "feed")
    assert capsys.readouterr().out == "feed: 5, of which in tests: 0\n"
