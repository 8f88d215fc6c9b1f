"""Sampling settings: defaults and invalid values."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest

from tcbench.errors import ConfigError, UnknownName
from textcraftor.diffusion.schedule import SAMPLERS, Schedule


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"sampler": "dimm"}, UnknownName, "unknown sampler 'dimm'; did you mean ddim"),
        ({"spacing": "trail"}, UnknownName, "unknown spacing 'trail'; did you mean trailing"),
        ({"steps": 0}, ConfigError, "steps = 0; expected at least 1"),
        ({"guidance": -1.0}, ConfigError, "guidance = -1.0; expected at least 0"),
        ({"size": (4, 64)}, ConfigError, r"size = \[4, 64\]; expected each at least 8"),
        ({"eta": 1.0, "sampler": "euler"}, ConfigError, 'only "ddim" supports eta'),
        ({"tuned_steps": 26}, ConfigError, "tuned_steps = 26 is more than steps = 25"),
    ],
)
def test_impossible_settings_are_refused(
    values: dict[str, Any], error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Schedule(**values)


def test_whole_numbers_are_accepted_as_floats() -> None:
    schedule = Schedule("ddim", 5, 3)
    assert (schedule.guidance, type(schedule.guidance)) == (3.0, float)


def test_tuned_step_count_resolves_0_to_all_steps() -> None:
    assert Schedule(steps=5).tuned_step_count == 5
    assert Schedule(steps=5, tuned_steps=2).tuned_step_count == 2


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
@pytest.mark.parametrize("skip_prk_steps", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [4, 25])
def test_evaluations_are_those_of_diffusers(sampler: str, steps: int, skip_prk_steps: bool) -> None:
    options = {"skip_prk_steps": skip_prk_steps} if sampler == "pndm" else {}
    scheduler = getattr(diffusers, SAMPLERS[sampler])(**options)
    scheduler.set_timesteps(steps)
    own = Schedule(sampler, steps).evaluations(skip_prk_steps=skip_prk_steps)
    assert own == len(scheduler.timesteps)


def test_one_step_is_one_evaluation() -> None:
    for sampler in SAMPLERS:
        assert Schedule(sampler, 1).evaluations(skip_prk_steps=True) == 1
