"""Cells of the report's tables."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.reproduce.results import Results
from leaderboards.builder import build
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")


def test_differences_over_fewer_prompts_say_so(make_run: Callable[..., RunState]) -> None:
    values: list[list[float | None]] = [[float(i % 7)] for i in range(40)]
    holes = [[None] if i < 16 else row for i, row in enumerate(values)]
    runs = [make_run(name, (BRIGHT, rows)) for name, rows in (("base", values), ("new", holes))]
    cell = build(runs, "base").sections[0].cells["new", "bright", None]
    assert Results.text([cell]).endswith("[n = 24 of 40]")
    assert Results.text([cell, cell]).endswith("[n = 24 of 40]")
    assert "[n" not in Results.text([cell], 24)
    assert Results.text([None]) == "–"
