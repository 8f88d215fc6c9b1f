"""A run's scores as arrays: what belongs to the plan, why something is missing, and how runs are paired."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from leaderboards.records import Sample, Score
from leaderboards.run_state import RunState
from leaderboards.scores import SAMPLES, RunScores
from tests.leaderboards.conftest import BRIGHT

MakeRun = Callable[..., RunState]


@pytest.fixture
def run(make_run: MakeRun) -> RunState:
    """Three planned prompts of one sample; the second without a score, and a fourth that is not planned."""
    run = make_run("base", (BRIGHT, [[0.5], [None], [0.7]]))
    run.append_samples([Sample(3, 0, "a", "a", "animals", 7, image="images/00003-0.png")])
    run.append_scores(BRIGHT, [Score(3, 0, "ok", 99.0)])
    return run


def test_scores_are_those_of_the_plan(run: RunState) -> None:
    (scored,) = RunScores.read(run).scored
    assert scored.keys.tolist() == [0, SAMPLES, 2 * SAMPLES]
    assert scored.values.tolist() == pytest.approx([0.5, math.nan, 0.7], nan_ok=True)
    assert scored.reasons == {1: "flaky"}
    prompts, means = scored.by_prompt
    assert (prompts.tolist(), means.tolist()) == ([0, 2], [0.5, 0.7])
    assert scored.samples_of(prompts).tolist() == [1, 1]


def test_a_sample_without_an_image_has_a_reason_and_an_untried_one_has_no_row(make_run: MakeRun) -> None:
    run = make_run("base", (BRIGHT, [[0.5], [0.6], [0.7]]))
    file = next((run.path / "samples").glob("*.jsonl"))
    lines = file.read_text().splitlines(keepends=True)
    gone = (
        lines[1]
        .replace('"image": "images/00001-0.png"', '"image": null')
        .replace('"reason": null', '"reason": "not finite"')
    )
    file.write_text(lines[0] + gone)  # the third was not sampled yet
    scores = next((run.path / "scores").glob("*/*.jsonl"))
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:1]))
    (scored,) = RunScores.read(run).scored
    assert scored.keys.tolist() == [0, SAMPLES]
    assert scored.reasons == {1: "not finite"}


def test_pairs_are_of_samples_that_both_have(make_run: MakeRun) -> None:
    base = make_run("base", (BRIGHT, [[1.0, 100.0], [3.0, 3.0], [5.0, 5.0]]))
    new = make_run("new", (BRIGHT, [[2.0, None], [None, None], [5.5, 6.5]]))
    (theirs,), (ours,) = RunScores.read(base).scored, RunScores.read(new).scored
    prompts, differences = ours.minus(theirs)
    assert (prompts.tolist(), differences.tolist()) == ([0, 2], [1.0, 1.0])
    fewer = make_run("fewer", (BRIGHT, [[1.5, 1.5]]))
    prompts, differences = RunScores.read(fewer).scored[0].minus(theirs)
    assert (prompts.tolist(), differences.tolist()) == ([0], [np.mean([0.5, -98.5])])
