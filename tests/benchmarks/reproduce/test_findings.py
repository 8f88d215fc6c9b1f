"""The rules by which a finding holds, on scores whose differences are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from benchmarks.reproduce.findings import COLUMN_GROUPS, _better, _not_below, _worse
from benchmarks.systems import WORLD_REWARDS
from leaderboards.board import Cell
from leaderboards.builder import build
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from rewards.registry import info

Columns = Callable[..., list[list[Cell]]]


@pytest.fixture
def columns(make_run: Callable[..., RunState]) -> Columns:
    """Makes one column per argument: the mean differences of a method's seeds, on 200 prompts."""

    def make(*differences: Sequence[float], spread: float = 0.05) -> list[list[Cell]]:
        random = np.random.default_rng(0)
        base = random.normal(0, 1, 200)
        sets = [
            ScoreSet(f"r{n}", f"{n}" * 12, higher_is_better=True, role="trainable", family=f"f{n}")
            for n in range(len(differences))
        ]

        def rows(change: float) -> list[list[float]]:
            noise = random.normal(0, spread, 200)
            return (base + change + noise - noise.mean())[:, None].tolist()

        runs = [make_run("base", *((one, base[:, None].tolist()) for one in sets))]
        seeds = range(len(differences[0]))
        runs += [
            make_run(f"new-{k}", *((one, rows(d[k])) for one, d in zip(sets, differences, strict=True)))
            for k in seeds
        ]
        cells = build(runs, "base").sections[0].cells
        return [[cells[f"new-{k}", one.reward, None] for k in seeds] for one in sets]

    return make


def test_better_requires_every_column_and_every_seed(columns: Columns) -> None:
    assert _better("x", columns([0.2, 0.3], [0.1, 0.2])).verdict == "holds"


def test_better_is_undecided_if_one_seed_is(columns: Columns) -> None:
    assert _better("x", columns([0.2, 0.3], [0.1, 0.0])).verdict == "undecided"


def test_better_does_not_hold_if_one_column_is_worse(columns: Columns) -> None:
    finding = _better("x", columns([0.2, 0.3], [-0.1, -0.2]))
    assert finding.verdict == "does not hold"
    assert "r0 +0.25" in finding.figures
    assert "r1 -0.15" in finding.figures


def test_worse_is_the_other_way_round(columns: Columns) -> None:
    assert _worse("x", columns([-0.2, -0.3])).verdict == "holds"


def test_worse_does_not_hold_for_a_gain(columns: Columns) -> None:
    assert _worse("x", columns([0.2, 0.3])).verdict == "does not hold"


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [([0.0, 0.002], "holds"), ([0.0, -0.0098], "undecided"), ([0.0, -0.03], "does not hold")],
)
def test_not_below_has_a_margin_of_one_point(changes: list[float], verdict: str, columns: Columns) -> None:
    assert _not_below("x", columns(changes, spread=0.01)).verdict == verdict


def test_every_reward_of_the_world_but_the_selecting_one_is_in_one_group() -> None:
    grouped = [label for labels in COLUMN_GROUPS.values() for label in labels]
    assert sorted(grouped) == sorted(set(WORLD_REWARDS) - {"world-siglip"})
    for group, labels in COLUMN_GROUPS.items():
        assert all((info(label).role == "judge") == ("judges" in group) for label in labels)
