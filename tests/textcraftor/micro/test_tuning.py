"""A minute of TextCraftor on the shipped pipeline and rewards raises the trained rewards."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.execution import execute_plan
from benchmarks.planning import Request, plan_run
from leaderboards.run_state import RunState
from tcbench.progress import Silent
from textcraftor.config import make_config
from textcraftor.io.checkpoint import VALIDATION, TrainFolder
from textcraftor.training import train


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
def test_a_minute_of_training_raises_the_trained_rewards(tmp_path: Path) -> None:
    config = make_config("micro", profile="quick", overrides={"rewards.mix": "world-aesthetic=1,world-hps=1"})
    done = train(config, tmp_path / "tuned", device="cpu")
    assert done.updates == 12
    last = TrainFolder(tmp_path / "tuned").rows(VALIDATION)[-1]
    assert last["changes"]["trained"][1] > 0  # the lower end of the interval
    request = Request(
        model=str(tmp_path / "tuned"),
        limit=2,
        rewards=["world-aesthetic"],
        device="cpu",
        out=tmp_path / "runs",
    )
    outcome = execute_plan(plan_run(request), Silent())
    assert outcome.complete
    details = RunState(outcome.path).header.details
    assert list(details["trained_on"]) == ["world-aesthetic", "world-hps"]
