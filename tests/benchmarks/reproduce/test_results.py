"""The comparison's results: the first method against the others, seed by seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reproduce import world
from benchmarks.reproduce.results import FIRST, Results
from benchmarks.reproduce.tasks import TABULATED
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState

GAINS = {FIRST: (1.0, 2.0), "rl": (0.5, 0.5), "style-words": (3.0,)}
"""Gain of each seed over the base; the others' is 0."""

REWARD = ScoreSet("r", "0" * 12, higher_is_better=True, role="trainable", family="f")


@pytest.fixture
def results(make_run: Callable[..., RunState], tmp_path: Path) -> Results:
    random = np.random.default_rng(0)
    base = random.normal(0, 1, 100)
    empty = Results(tmp_path, world.QUICK)
    systems = {world.BASELINE: 0.0}
    for name in empty.headline:
        gains = GAINS.get(name, (0.0, 0.0))
        systems |= dict(zip(empty.seeds(name), gains, strict=True))
    (tmp_path / TABULATED).mkdir()
    for name, gain in systems.items():
        noise = random.normal(0, 0.05, 100)
        scores = base + gain + noise - noise.mean()
        run = make_run(name, (REWARD, scores[:, None].tolist()))
        (tmp_path / TABULATED / name).write_text(f"{run.path.name}\n")
    return empty


def test_the_first_method_is_compared_seed_by_seed(results: Results) -> None:
    def differences(other: str) -> list[float]:
        cells = results.against_first[other, "r"]
        return [cell.comparison.difference.value for cell in cells if cell.comparison]

    assert differences("rl") == pytest.approx([0.5, 1.5])
    assert differences("grpo") == pytest.approx([1.0, 2.0])
    assert differences("style-words") == pytest.approx([-2.0, -1.0])  # one system for every seed


def test_claims_against_others_are_corrected_together(results: Results) -> None:
    cells = [cell for cells in results.against_first.values() for cell in cells]
    assert len(cells) == 2 * (len(results.headline) - 1)
    smallest = min(cell.comparison.p for cell in cells if cell.comparison)
    assert min(cell.p_adjusted or 0 for cell in cells) == pytest.approx(len(cells) * smallest)
    claims = [cell.claim for cell in results.against_first["style-words", "r"]]
    assert claims == ["worse", "worse"]
