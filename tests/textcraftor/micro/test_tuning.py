"""Training on the shipped pipeline learns: TextCraftor its rewards, reinforcement learning an easy one."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from benchmarks.execution import execute_plan
from benchmarks.planning import Request, plan_run
from leaderboards.run_state import RunState
from tcbench.progress import Silent
from textcraftor.config import make_config
from textcraftor.io.checkpoint import LOG, VALIDATION, TrainFolder
from textcraftor.training import train

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COLOURFUL = """
from rewards import Reward, RewardInfo, register

@register(RewardInfo("colourful", uses_prompt=False, differentiable=False))
class Colourful(Reward):
    def _score(self, pixels, prompts):
        return (pixels.amax(1) - pixels.amin(1)).mean((1, 2)).detach()
"""

POLICY: dict[str, Any] = {"schedule.eta": 1.0, "algorithm.policy_steps": 4, "optimiser.lr": 1e-3}
METHODS: dict[str, dict[str, Any]] = {
    "ddpo": POLICY,
    "grpo": POLICY,
    "nft": {"algorithm.policy_steps": 4, "optimiser.lr": 3e-4},
}


@pytest.mark.parametrize("method", METHODS)
def test_reinforcement_learning_learns_an_easy_reward(method: str, tmp_path: Path) -> None:
    """The images of two prompts become more colourful: first and last quarter of the updates."""
    (tmp_path / "colourful.py").write_text(COLOURFUL)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue star\n")
    common: dict[str, Any] = {
        "rewards.mix": f"{tmp_path / 'colourful.py'}:Colourful=1", "rewards.calibration": "",
        "data.prompts": str(tmp_path / "prompts.txt"), "data.group": 8, "optimiser.batch": 16,
        "optimiser.updates": 12, "optimiser.lr_schedule": "constant", "schedule.steps": 10,
        "schedule.tuned_steps": 10, "validation.eval_tuned_steps": 10, "validation.every": 0,
        "validation.selection_reward": "", "algorithm.name": method,
    }  # fmt: skip
    train(make_config("micro", overrides=common | METHODS[method]), tmp_path / "tuned", device="cpu")
    rewards = [row["reward/colourful"] for row in TrainFolder(tmp_path / "tuned").rows(LOG)]
    assert fmean(rewards[-3:]) > 1.2 * fmean(rewards[:3])


def test_a_minute_of_training_raises_the_trained_rewards(tmp_path: Path) -> None:
    half = {"optimiser.updates": 12, "optimiser.batch": 4}
    mix = {"rewards.mix": "world-aesthetic=1,world-hps=1"}
    config = make_config("micro", profile="quick", overrides=half | mix)
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
