"""The script that writes the results of a tutorial: digits, and a page without a place for them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tour.py"


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_differences_have_three_digits_also_if_the_last_is_zero(script: dict[str, Any]) -> None:
    difference = {"value": 0.42, "low": -12.0, "high": 1.5}
    cell = {"reward": "world-blip", "comparison": {"difference": difference}}
    assert script["_difference"](cell) == "world-blip +0.420 [-12.0, +1.50]"


@pytest.mark.parametrize("results", ["", "<!-- results: a -->\n<!-- end of results -->\n" * 2])
def test_page_without_exactly_one_place_for_results_is_refused_before_the_commands(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: str
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"    tcbench no-such-command\n    tcbench leaderboard\n{results}", encoding="utf-8")
    monkeypatch.setitem(script["main"].__globals__, "_PAGE", page)
    with pytest.raises(SystemExit, match=r"page.md has [02] places for results; expected one"):
        script["main"]()
