"""`tcbench calibrate`: mean and deviation of a run's scores, with their provenance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.calibrate import calibrate_run
from benchmarks.cli import main
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from rewards.combine.calibration import Calibration

SET = ScoreSet("clip", "a" * 12, True, "trainable", "clip")


def test_each_reward_has_its_mean_and_deviation(make_run: Callable[..., RunState]) -> None:
    rows = [[float(p % 2)] for p in range(100)] + [[None]]
    run = make_run("micro", (SET, rows))
    calibration = calibrate_run(run)
    assert calibration.rewards["clip"].mean == 0.5
    assert calibration.rewards["clip"].std == pytest.approx(0.5025, abs=1e-4)
    assert (calibration.rewards["clip"].count, calibration.rewards["clip"].score_id) == (100, "a" * 12)
    assert (calibration.suite, calibration.system) == ("toy", "micro")
    assert calibration.generation_id == run.header.generation_id
    assert calibration.provenance[0]["versions"] == {"torch": "2.13.0"}
    assert calibration.provenance[0].keys() <= {"versions", "python", "device_name", "threads", "commit"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0]] * 99, "has 99 scores of clip; expected at least 100"),
        ([[1.0]] * 100, "gave the same score to all images of"),
    ],
)
def test_too_few_or_equal_scores_are_an_error(
    make_run: Callable[..., RunState], rows: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate_run(make_run("micro", (SET, rows)))


def test_the_command_writes_a_calibration_file(
    make_run: Callable[..., RunState], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("micro", (SET, [[float(p)] for p in range(100)]))
    with pytest.raises(SystemExit) as done:
        main(["calibrate", str(run.path), "--out", str(tmp_path / "scale.json")])
    assert not done.value.code
    assert Calibration.read(tmp_path / "scale.json").statistics("clip", "a" * 12).mean == 49.5
    assert "49.5000" in capsys.readouterr().out
