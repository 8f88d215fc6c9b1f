"""The committed comparison: its boards say of the committed scores what a straight computation says."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.reproduce import world

DOCS = Path(__file__).parents[3] / "docs" / "world-table"
BOARDS = sorted(DOCS.glob("*/leaderboard.csv"))


def table(system: str) -> pd.DataFrame:
    """(prompts x rewards) means over the samples of a prompt."""
    found = pd.read_csv(DOCS / "scores" / f"{system}.csv")
    assert found["sample"].nunique() >= world.FULL.seeds
    return found.drop(columns=["sample", "category", "prompt"]).groupby("prompt_id").mean()


def test_there_is_a_headline_of_enough_prompts() -> None:
    assert "headline" in {file.parent.name for file in BOARDS}
    for method in world.HEADLINE:
        for seed in range(world.FULL.training_seeds):
            assert len(table(f"{method}-{seed}")) == world.FULL.prompts


@pytest.mark.parametrize("board", BOARDS, ids=lambda file: file.parent.name)
def test_a_board_says_what_its_scores_say(board: Path) -> None:
    base = table(world.BASELINE)
    lines = [line for line in csv.DictReader(board.open(encoding="utf-8")) if not line["category"]]
    compared = [line for line in lines if line["difference"]]
    assert len(compared) >= 100
    for line in lines:
        means = table(line["system"])[line["reward"]]
        assert float(line["mean"]) == pytest.approx(means.mean(), rel=1e-6)
    for line in compared:
        difference = (table(line["system"]) - base)[line["reward"]]
        assert float(line["difference"]) == pytest.approx(difference.mean(), rel=1e-5, abs=1e-7)
        # a normal interval is no other than the studentised one where prompts are many
        error = difference.std(ddof=1) / len(difference) ** 0.5
        half = (float(line["difference_high"]) - float(line["difference_low"])) / 2
        assert half == pytest.approx(1.96 * error, rel=0.15)
