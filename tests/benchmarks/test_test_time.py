"""Systems that optimise noise or embeddings at test time: settings, ids, cost, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.execution import execute_plan
from benchmarks.planning import Plan, Request, plan_run
from benchmarks.systems import LEARNING_RATES, System
from leaderboards.run_state import HEADER, RunState
from tcbench.errors import ConfigError, UnknownName
from tcbench.progress import Silent
from textcraftor.diffusion.runner import EncoderWindow
from textcraftor.diffusion.schedule import Schedule
from textcraftor.ledger import Ledger

MIX = "world-aesthetic=1,world-pick=1,world-hps=1,world-clip=2.6"
MICRO = f'base = "micro"\ntest_time_reward = "{MIX}"\ncalibration = "world"\n'


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """Plans a run of a system file on two validation prompts of the embedded world."""

    def plan(text: str, name: str = "mine", **changes: Any) -> Plan:
        file = tmp_path / f"{name}.toml"
        file.write_text(text)
        settings: dict[str, Any] = {
            "suite": "world-validation", "limit": 2, "rewards": ["world-pick"], "device": "cpu",
            "batch_size": 2, "out": tmp_path / "runs",
        }  # fmt: skip
        return plan_run(Request(str(file), **settings | changes), fetch=False)

    return plan


def pixels(run: RunState) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted((run.path / "images").iterdir())])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('optimise = "nose"', UnknownName, "unknown target of optimise 'nose'; did you mean noise"),
        ('optimise = "noise"', ConfigError, "optimise = 'noise' with test_time_reward = ''; set a reward"),
        (
            'test_time_reward = "world-pick=1"',
            ConfigError,
            "best_of = 1 with test_time_reward = 'world-pick=1'",
        ),
        (
            'optimise = "noise"\nbest_of = 2\ntest_time_reward = "world-pick=1"',
            ConfigError,
            "best_of = 2 with optimise = 'noise'; set only one of them",
        ),
        (
            'optimise = "noise"\ntest_time_reward = "world-pick=1"\nguidance_rescale = 0.7',
            ConfigError,
            "optimise = 'noise' with guidance_rescale = 0.7; remove one",
        ),
        (
            'optimise = "noise"\ntest_time_reward = "world-pick=1"\nschedule.eta = 1.0',
            ConfigError,
            "schedule.eta = 1.0, which adds noise in each step; set schedule.eta = 0.0",
        ),
        (
            'optimise = "embedding"\ntest_time_reward = "world-pick=1"\nschedule.sampler = "euler-a"',
            ConfigError,
            "schedule.sampler = 'euler-a', which adds noise in each step; set schedule.sampler = 'euler'",
        ),
        (
            'optimise = "embedding"\ntest_time_reward = "world-pick=1"\n'
            "[[windows]]\ntuned_steps = 15\nweights = { original = 1 }",
            ConfigError,
            "optimise = 'embedding' with a text encoder for the last 15 of 25 steps",
        ),
        (
            'optimise = "noise"\ntest_time_reward = "world-pick=1,jpeg-compressibility=1"',
            ConfigError,
            "jpeg-compressibility has no gradient; remove it, or set best_of instead of optimise",
        ),
        (
            'optimise = "noise"\ntest_time_reward = "world-pick=1"\noptimise_iterations = -1',
            ConfigError,
            "optimise_iterations = -1; expected at least 0",
        ),
    ],
)
def test_each_bad_setting_is_one_line(
    planned: Callable[..., Plan], text: str, error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        planned(f'base = "micro"\n{text}')
    assert "\n" not in str(raised.value)


def test_tuned_encoders_that_can_be_optimised_are_accepted() -> None:
    micro, partial = System.find("micro"), EncoderWindow({"original": 1.0}, 15)
    settings: dict[str, Any] = {"test_time_reward": "world-pick=1"}
    assert replace(micro, windows=(partial,), optimise="noise", **settings).optimise_rate == 5.0
    whole = EncoderWindow({"original": 1.0})
    assert replace(micro, windows=(whole,), optimise="embedding", optimise_lr=0.5, **settings)


def test_ids_cover_the_optimisation_and_nothing_else(planned: Callable[..., Plan]) -> None:
    base = planned('base = "micro"').header
    assert not {"optimise", "best_of", "choosers"} & base.generation.keys()
    unused = planned('base = "micro"\noptimise_iterations = 7\noptimise_lr = 0.5').header
    assert unused.generation_id == base.generation_id
    lines = [
        'optimise = "noise"', 'optimise = "embedding"', 'optimise = "noise"\noptimise_iterations = 7',
        'optimise = "noise"\noptimise_lr = 0.5', "best_of = 2",
    ]  # fmt: skip
    ids = [planned(MICRO + line).header.generation_id for line in lines]
    assert len({base.generation_id, *ids}) == len(lines) + 1
    explicit = planned(MICRO + f'optimise = "noise"\noptimise_lr = {LEARNING_RATES["noise"]}')
    assert explicit.header.generation_id == ids[0]  # the default, written out


def test_rewards_of_the_optimisation_count_as_trained_on(planned: Callable[..., Plan]) -> None:
    details = planned(MICRO + 'optimise = "embedding"').header.details
    assert details["trained_on"] == ["world-aesthetic", "world-pick", "world-hps", "world-clip"]
    assert "world-pick" not in planned('base = "micro"').header.details["trained_on"]


def test_compute_per_image_is_stated_and_in_no_id(planned: Callable[..., Plan]) -> None:
    cost = {
        line: planned((MICRO if line else 'base = "micro"\n') + line).header.details["compute_per_image"]
        for line in ("", "best_of = 8", 'optimise = "noise"\noptimise_iterations = 10')
    }
    once = 2 * 25 + 1  # guided steps and a decode
    assert list(cost.values()) == [
        once,
        8 * (once + 4),
        # 11 scored images; in 10 of them each step is repeated and differentiated; the final image
        11 * (once + 4) + 10 * 2 * 2 * 25 + once,
    ]
    unguided = planned('base = "micro"\n[schedule]\nguidance = 1.0\nsampler = "heun"\nsteps = 10')
    assert unguided.header.details["compute_per_image"] == 19 + 1
    one_step = planned(MICRO + 'optimise = "noise"\noptimise_iterations = 2\nschedule.steps = 1')
    assert (
        one_step.header.details["compute_per_image"]
        == Ledger(unet_forwards=4 * 2, unet_backwards=2 * 2, reward_calls=3 * 4, decodes=4).compute
    )
    assert "compute_per_image" not in one_step.header.generation


def test_a_saved_system_keeps_its_optimisation(tmp_path: Path) -> None:
    for changes in ({}, {"optimise_iterations": 0}, {"optimise_iterations": 7, "optimise_lr": 0.5}):
        settings: dict[str, Any] = {"optimise": "noise", "test_time_reward": MIX, "calibration": "world"}
        system = replace(System.find("micro"), name="saved", **settings | changes)
        system.save(tmp_path / "saved")
        assert System.find(str(tmp_path / "saved")) == system


@pytest.mark.parametrize("target", LEARNING_RATES)
def test_run_on_the_embedded_pipeline(planned: Callable[..., Plan], tmp_path: Path, target: str) -> None:
    steps = "\n[schedule]\nsteps = 5\n"
    base = execute_plan(planned(f'base = "micro"{steps}'), Silent())
    text = MICRO + f'optimise = "{target}"\noptimise_iterations = '
    none = execute_plan(planned(f"{text}0{steps}", "none"), Silent())
    assert (pixels(none.run) == pixels(base.run)).all()
    plan = planned(f"{text}3{steps}", "some")
    result = execute_plan(plan, Silent())
    assert result.complete
    assert result.rewards[0].mean > base.rewards[0].mean  # type: ignore[operator]
    header = json.loads((result.path / HEADER).read_text())
    assert header["details"]["compute_per_image"] == plan.header.details["compute_per_image"]
    # a batch with a lost image is generated again as a whole
    before = pixels(result.run)
    for file in (result.path / "images").iterdir():
        file.unlink()
        break
    assert execute_plan(plan, Silent()).complete
    assert (pixels(result.run) == before).all()


def test_dry_run_states_the_compute(planned: Callable[..., Plan], capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.cli.report import show_plan

    show_plan(planned(MICRO + "best_of = 2"), as_json=False)
    assert f"compute_per_image    {2 * (2 * Schedule().steps + 1 + 4)}\n" in capsys.readouterr().out
