"""A board as CSV, JSON and LaTeX: contents, and the same bytes for the same runs."""

from __future__ import annotations

import csv
import io
import json

import jsonschema
import pytest

from leaderboards.board import Board, Stamp
from leaderboards.builder import build
from leaderboards.formats import SCHEMA, table_files
from leaderboards.run_state import RunState

STAMP = Stamp({"tcbench": "1.0"}, "0123456789abcdef", "2026-01-31")


@pytest.fixture
def board(runs: list[RunState]) -> Board:
    return build(runs, "base")


def test_long_csv_has_one_line_per_cell_without_nan(board: Board) -> None:
    lines = list(csv.DictReader(io.StringIO(table_files(board, STAMP)["leaderboard.csv"])))
    assert len(lines) == 3 * 3  # three (system, reward) pairs, overall and two categories
    line = next(x for x in lines if (x["system"], x["reward"], x["category"]) == ("new_1", "bright", ""))
    assert float(line["difference"]) == pytest.approx(1.0, abs=0.01)
    assert float(line["difference_low"]) < float(line["difference"]) < float(line["difference_high"])
    assert 0 < float(line["detectable"]) < 0.1
    assert (line["baseline"], line["claim"], line["exposure"]) == ("base", "better", "trained-on")
    assert (line["mean_prompts"], line["samples"], line["planned_samples"]) == ("120", "120", "120")
    assert line["watermarks"] == "limit 120 of 800"
    assert not [value for row in lines for value in row.values() if value in ("nan", "None")]


def test_wide_csv_has_one_line_per_run(board: Board) -> None:
    base, new = csv.DictReader(io.StringIO(table_files(board, STAMP)["leaderboard.wide.csv"]))
    assert (base["system"], new["system"]) == ("base", "new_1")
    assert float(new["bright"]) - float(base["bright"]) == pytest.approx(float(new["bright difference"]))
    assert (new["bright claim"], new["blur"], base["bright difference"]) == ("better", "", "")


def test_json_conforms_to_its_schema(board: Board) -> None:
    record = json.loads(table_files(board, STAMP)["leaderboard.json"])
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(record, schema, cls=jsonschema.Draft202012Validator)
    (section,) = record["sections"]
    cell = next(c for c in section["cells"] if (c["system"], c["category"]) == ("new_1", None))
    assert cell["comparison"]["difference"]["low"] > 0.9
    assert section["methods"][0]["rewards"]["bright"]["claim"] == "better"
    assert section["systems"][0]["rank"] is None  # one run has no scores of the held-out reward
    ours = next(s for s in section["standings"] if s["label"] == "ours")
    assert (ours["systems"], ours["is_method"]) == (["new_1"], True)
    assert ours["differences"]["bright"]["estimate"] == cell["comparison"]["difference"]
    assert ours["differences"]["bright"]["seeds"] == [cell["comparison"]["difference"]["value"]]
    assert ours["gains"]["trained-on"]["estimate"]["low"] > 1.2  # a gain of 1 in deviations of a sine
    assert ours["verdict"].startswith("better only by its training rewards")
    del cell["mean"]["value"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, schema, cls=jsonschema.Draft202012Validator)


def test_latex_escapes_names_and_has_complete_tables(board: Board) -> None:
    text = table_files(board, STAMP)["leaderboard.tex"]
    assert r"new\_1" in text
    assert r"bright $\uparrow$" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in rows}) == 1
    assert text.isascii()


def test_files_have_the_stamp_and_are_the_same_for_the_same_runs(runs: list[RunState], board: Board) -> None:
    files = table_files(board, STAMP)
    assert files == table_files(build(runs[::-1], "base"), STAMP)
    for text in files.values():
        for part in (board.sha256, "2026-01-31", "01234567"):
            assert part in text
    assert not any("2026" in text for text in table_files(board, Stamp()).values())
