"""Tables for the terminal: they fit it, and are not wrapped in pipes."""

from __future__ import annotations

import sys
from unittest.mock import Mock

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from benchmarks.cli.tables import text_table, wrapped
from benchmarks.cli.weights import app

ROWS = [
    {name: f"{name} of the {'very ' * 8}long row {number}" for name in ("first", "second", "third", "fourth")}
    | {"path": "/some/folder/" + "x" * 60, "名前": "新しい" * 9}
    for number in range(3)
]


def widest(text: str) -> int:
    return max(map(cell_len, text.splitlines()))


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_tables_fit_the_variable_columns(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = text_table(ROWS)
    assert widest(text) <= columns
    assert "".join(text.split()).count("x") >= 60  # folded, not cut
    assert widest(wrapped("新しい note " * 40)) <= columns
    monkeypatch.delenv("COLUMNS")
    assert widest(text_table(ROWS)) > 200
    assert widest(wrapped("新しい note " * 40)) > 200


def test_tables_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "stdout", Mock(isatty=lambda: True))
    monkeypatch.setattr("benchmarks.cli.tables.get_terminal_size", lambda: Mock(columns=70))
    assert 50 < widest(text_table(ROWS)) <= 70


def test_small_tables_have_no_empty_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert text_table([{"a": 1, "b": 2}, {"a": 3, "b": 4}]) == "a  b\n1  2\n3  4"


def test_the_list_of_weights_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert widest(CliRunner().invoke(app, ["list"]).output) <= 80
