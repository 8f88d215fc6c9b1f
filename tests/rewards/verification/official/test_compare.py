"""Native rewards against the official packages' own code, run in their own environment on one checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rewards
from rewards.verification.official import environment
from rewards.verification.official.environment import OfficialFailed
from rewards.verification.parity import BOUND, compare_official
from rewards.verification.pictures import PROMPTS, pictures

NAMES = ["hpsv2", "hpsv2-antialias", "imagereward"]


@pytest.fixture
def _official() -> None:
    """The environment, which `make official` builds: no test downloads it."""
    if not (environment.home_of() / environment.READY).is_file():
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up("no environment of the official packages: run `make official`")


@pytest.mark.usefixtures("_official")
@pytest.mark.parametrize("name", NAMES)
def test_the_official_code_gives_the_same_scores_and_no_mutant_does(
    tmp_path: Path, shared_data: Path, name: str
) -> None:
    shown = list(pictures(shared_data / "photos", 4))
    row = compare_official(rewards.info(name), shared_data / "photos", shown, PROMPTS, tmp_path, full=False)
    assert row.error <= BOUND
    assert row.rank > 0.999
    assert len(row.mutants) >= 5
    assert row.missed == []
    assert row.speed is not None


@pytest.mark.slow
@pytest.mark.usefixtures("_official")
@pytest.mark.parametrize("name", ["hpsv2", "imagereward"])
def test_so_it_does_at_the_published_size(tmp_path: Path, shared_data: Path, name: str) -> None:
    shown = list(pictures(shared_data / "photos", 3))
    row = compare_official(
        rewards.info(name), shared_data / "photos", shown, PROMPTS[:2], tmp_path, full=True
    )
    assert row.error <= BOUND
    assert row.rank > 0.99


def test_half_an_environment_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCBENCH_ENVIRONMENTS", str(tmp_path))
    home = environment.home_of()
    (home / "torn").mkdir(parents=True)
    commands = []
    monkeypatch.setattr(environment, "_add_vocabulary", lambda _: None)
    monkeypatch.setattr(
        environment, "_call", lambda command, *_: commands.append(command) or home.mkdir(exist_ok=True) or ""
    )
    python = environment.interpreter()
    assert python.is_relative_to(home)
    assert not (home / "torn").exists()
    assert any("--require-hashes" in command for command in commands)
    commands.clear()
    environment.interpreter()
    assert commands == []


def test_what_the_packages_said_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "runner.py"
    script.write_text("raise SystemExit('one\\ntwo\\nno such reward')", encoding="utf-8")
    import sys

    monkeypatch.setattr(environment, "interpreter", lambda _: Path(sys.executable))
    with pytest.raises(OfficialFailed, match=r"failed: one \| two \| no such reward"):
        environment.run({}, script)
