"""Sampling settings: defaults and invalid values."""

from __future__ import annotations

from typing import Any

import pytest

from tcbench.errors import ConfigError, UnknownName
from textcraftor.diffusion.schedule import Schedule


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
