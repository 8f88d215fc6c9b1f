"""Two rewards, and runs for the tests of several pages."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from leaderboards.records import Planned, ScoreSet
from leaderboards.run_state import RunState

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")
BLUR = ScoreSet("blur", "c" * 12, higher_is_better=False, role="judge", family="other")


@pytest.fixture
def runs(make_run: Callable[..., RunState]) -> list[RunState]:
    """A baseline with two rewards, and a system trained on the first one, better by 1, without the second."""
    values = [[math.sin(i)] for i in range(120)]
    shifted = [[math.sin(i) + 1 + 0.1 * math.cos(7 * i)] for i in range(120)]
    kinds = {"categories": ("photo", "anime"), "watermarks": ("limit 120 of 800",)}
    return [
        make_run("base", (BRIGHT, values), (BLUR, values), **kinds),
        make_run("new_1", (BRIGHT, shifted), details={"trained_on": ["bright"], "method": "ours"}, **kinds),
    ]


@pytest.fixture
def unfinished_run(make_run: Callable[..., RunState]) -> Callable[..., RunState]:
    """Writes a run that ended before all its images were generated, without scores."""

    def write(system: str, *, images: int, planned: int, **options: Any) -> RunState:
        run = make_run(system, (BRIGHT, [[0.0]] * images), **options)
        shutil.rmtree(run.path / "scores")
        plan = Planned(tuple(range(planned)), of=planned, seeds=1)
        (run.path / "run.json").write_text(replace(run.header, planned=plan).to_json(), encoding="utf-8")
        return RunState(run.path)

    return write
