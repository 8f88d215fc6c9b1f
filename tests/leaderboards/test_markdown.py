"""The Markdown page: the opening table first, limits and origin of the numbers, well-formed tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from leaderboards.board import Stamp
from leaderboards.builder import build
from leaderboards.markdown import markdown, markdown_table
from leaderboards.run_state import RunState
from tests.leaderboards.conftest import BRIGHT

MakeRun = Callable[..., RunState]

JUDGE = replace(BRIGHT, role="judge")


def page(make_run: MakeRun) -> str:
    kinds = {"categories": ("photo", "a|b"), "watermarks": ("out of domain",)}
    base = make_run("base", (JUDGE, [[0.1], [None], [0.4], [0.2]]), settings={"steps": 25}, **kinds)
    new = make_run("new", (JUDGE, [[0.2], [0.3], [0.7], [0.2]]), settings={"steps": 10}, **kinds)
    return markdown(build([base, new], "base"), Stamp(date="2026-01-31"), ["differences.png"])


def test_page_states_what_limits_its_numbers(make_run: MakeRun) -> None:
    text = page(make_run)
    assert "**Not a full result: out of domain.**" in text
    assert "○ too few prompts" in text
    assert "3 of 4 | 1 × flaky" in text
    assert "Judges: bright." in text
    assert "no claim: fewer than 100 prompts; other settings: steps 10 (baseline 25)" in text


def test_page_states_versions_hashes_and_settings(make_run: MakeRun) -> None:
    text = page(make_run)
    assert "torch 2.13.0, cpu, commit 01234567" in text
    assert "steps 10" in text
    assert re.search(r"scores: SHA-256 `[0-9a-f]{64}`\n- prompts of toy: SHA-256 `\w+`", text)
    assert "made with 2026-01-31" in text
    assert "![Differences by reward](differences.png)" in text


def test_table_rows_have_as_many_cells_as_the_header(make_run: MakeRun) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", page(make_run), re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block


def test_bars_in_cells_are_escaped() -> None:
    assert markdown_table([{"a": "x|y"}]) == "| a |\n| --- |\n| x\\|y |"


def test_all_after_the_opening_table_is_collapsed(make_run: MakeRun) -> None:
    text = page(make_run)
    opening, *_ = text.partition("<details")
    assert "| rank | system | trained on | held out | judges | verdict |" in opening
    assert len(re.findall(r"^\| ---", opening, re.MULTILINE)) == 1
    open_parts = re.sub(r"<details.*?</details>", "", text.removeprefix(opening), flags=re.DOTALL)
    assert "|" not in open_parts
    assert text.count("<details") == text.count("</details>")
