"""The Markdown page: what a reader is told, and that its tables are tables."""

from __future__ import annotations

import re
from collections.abc import Callable

from leaderboards.formats import Stamp
from leaderboards.markdown import markdown, table
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from leaderboards.table import build

MakeRun = Callable[..., RunState]

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="judge", family="toy")


def page(make_run: MakeRun) -> str:
    kinds = {"categories": ("photo", "a|b"), "watermarks": ("out of domain",)}
    base = make_run("base", (BRIGHT, [[0.1], [None], [0.4], [0.2]]), settings={"steps": 25}, **kinds)
    new = make_run("new", (BRIGHT, [[0.2], [0.3], [0.7], [0.2]]), settings={"steps": 10}, **kinds)
    return markdown(build([base, new], "base"), Stamp(date="2026-01-31"), ["differences.png"])


def test_a_page_tells_what_limits_its_numbers(make_run: MakeRun) -> None:
    text = page(make_run)
    assert "**Not a full result: out of domain.**" in text
    assert "○ too few prompts" in text
    assert "3 of 4 | 1 x flaky" in text
    assert "Judge (never trained or selected on): bright." in text


def test_a_page_tells_where_its_numbers_come_from(make_run: MakeRun) -> None:
    text = page(make_run)
    assert "torch 2.13.0, cpu, commit 01234567" in text
    assert "steps 10" in text
    assert re.search(r"SHA-256: scores `[0-9a-f]{64}`, prompts of toy `\w+`. Made with 2026-01-31", text)
    assert "![differences](differences.png)" in text


def test_every_table_line_has_the_cells_of_its_head(make_run: MakeRun) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", page(make_run), re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block


def test_bars_in_cells_are_escaped() -> None:
    assert table([{"a": "x|y"}]) == "| a |\n| --- |\n| x\\|y |"
