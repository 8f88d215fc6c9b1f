"""Native rewards agree with the official packages on one checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import rewards
from rewards.verification.official import environment
from rewards.verification.parity import BOUND, compare_with_official
from rewards.verification.pictures import PROMPTS, load_photos
from tcbench.errors import TcbenchError

NAMES = ["hpsv2", "hpsv2-antialias", "imagereward"]


@pytest.fixture
def _official() -> None:
    """Need the environment that `make official` builds: no test downloads it."""
    if not environment._has_environment():
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up("no environment of the official packages: run `make official`")


@pytest.mark.usefixtures("_official")
@pytest.mark.parametrize("name", NAMES)
def test_official_code_gives_the_same_scores_and_no_mutant_does(
    tmp_path: Path, shared_data: Path, name: str
) -> None:
    folder = shared_data / "photos"
    images = list(load_photos(folder, 4))
    row = compare_with_official(rewards.info(name), folder, images, PROMPTS, tmp_path, full=False)
    assert row.error <= BOUND
    assert row.rank > 0.999
    assert len(row.mutants) >= 5
    assert row.missed == []


@pytest.mark.slow
@pytest.mark.usefixtures("_official")
@pytest.mark.parametrize("name", ["hpsv2", "imagereward"])
def test_official_code_agrees_at_the_published_size(tmp_path: Path, shared_data: Path, name: str) -> None:
    folder = shared_data / "photos"
    images = list(load_photos(folder, 3))
    row = compare_with_official(rewards.info(name), folder, images, PROMPTS[:2], tmp_path, full=True)
    assert row.error <= BOUND
    assert row.rank > 0.99


def test_interrupted_build_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCBENCH_ENVIRONMENTS", str(tmp_path))
    commands: list[list[str]] = []

    def call(command: list[str], *_: object) -> str:
        commands.append(command)
        folder.mkdir(exist_ok=True)
        return ""

    folder = environment._environment_folder(environment._LOCK)
    (folder / "interrupted").mkdir(parents=True)
    monkeypatch.setattr(environment, "_add_vocabulary", lambda _: None)
    monkeypatch.setattr(environment, "_call", call)
    python = environment._official_python()
    assert python.is_relative_to(folder)
    assert not (folder / "interrupted").exists()
    assert any("--require-hashes" in command for command in commands)
    commands.clear()
    environment._official_python()
    assert commands == []


def test_error_ends_with_the_output_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "runner.py"
    script.write_text("raise SystemExit('one\\ntwo\\nno such reward')", encoding="utf-8")
    monkeypatch.setattr(environment, "_official_python", lambda _: Path(sys.executable))
    with pytest.raises(TcbenchError, match=r"failed: one \| two \| no such reward"):
        environment.run_official({}, script)
