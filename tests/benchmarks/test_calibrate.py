"""A calibration is the mean and deviation of what a run was scored, and says of what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.calibrate import calibrate
from benchmarks.cli import main
from leaderboards.records import RunFolder, ScoreSet
from rewards.combine.calibration import Calibration

SET = ScoreSet("clip", "a" * 12, True, "trainable", "clip")


def test_each_reward_has_its_mean_and_deviation(make_run: Callable[..., RunFolder]) -> None:
    rows = [[float(p % 2)] for p in range(100)] + [[None]]
    run = make_run("micro", (SET, rows))
    found = calibrate(run)
    assert found.rewards["clip"].mean == 0.5
    assert found.rewards["clip"].std == pytest.approx(0.5025, abs=1e-4)
    assert (found.rewards["clip"].count, found.rewards["clip"].score_id) == (100, "a" * 12)
    assert (found.suite, found.system) == ("toy", "micro")
    assert found.generation_id == run.header.generation_id
    assert found.provenance[0]["versions"] == {"torch": "2.13.0"}
    assert found.provenance[0].keys() <= {"versions", "python", "device_name", "threads", "commit"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [([[1.0]] * 99, "has 99 scores of clip, fewer than 100"), ([[1.0]] * 100, "the same score: no scale")],
)
def test_too_few_scores_or_none_that_differ_are_refused(
    make_run: Callable[..., RunFolder], rows: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(make_run("micro", (SET, rows)))


def test_the_command_writes_what_a_mix_reads(
    make_run: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("micro", (SET, [[float(p)] for p in range(100)]))
    with pytest.raises(SystemExit) as done:
        main(["calibrate", str(run.path), "--out", str(tmp_path / "made.json")])
    assert not done.value.code
    assert Calibration.read(tmp_path / "made.json").statistics("clip", "a" * 12).mean == 49.5
    assert "49.5000" in capsys.readouterr().out
