"""Tables: one reader for CSV, TSV, JSON and JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcbench.errors import FileFormatError
from tcbench.tables import Row, read_table

KINDS = (".csv", ".tsv", ".json", ".jsonl")


def read(folder: Path, name: str, content: str, *, quoted_tsv: bool = False) -> list[Row]:
    (folder / name).write_text(content, encoding="utf-8")
    return list(read_table(folder / name, kinds=KINDS, quoted_tsv=quoted_tsv))


def test_rows_have_their_line_and_cells(tmp_path: Path) -> None:
    assert read(tmp_path, "t.csv", '\ufeff Name ,b,,\n"x\ny",2,,\n\n3,4\n') == [
        Row("line 3", {"Name": "x\ny", "b": "2"}),
        Row("line 5", {"Name": "3", "b": "4"}),
    ]
    assert read(tmp_path, "t.jsonl", '{"a": null}\n\n"b"\n') == [
        Row("line 1", {"a": None}),
        Row("line 3", "b"),
    ]
    assert read(tmp_path, "t.json", '["a", {"b": 1}]') == [Row("entry 1", "a"), Row("entry 2", {"b": 1})]


def test_quotes_of_tsv_are_text_unless_requested(tmp_path: Path) -> None:
    content = 'a\tb\n"x"\t""y\n'
    assert read(tmp_path, "t.tsv", content) == [Row("line 2", {"a": '"x"', "b": '""y'})]
    content = 'a\tb\n"x"\t"y"\n'
    assert read(tmp_path, "t.tsv", content, quoted_tsv=True) == [Row("line 2", {"a": "x", "b": "y"})]


def test_short_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="line 3: expected 2 cells"):
        read(tmp_path, "t.csv", "a,b\n1,2\n3\n")


def test_other_kinds_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"unknown file type '.xlsx'; expected one of .csv"):
        read(tmp_path, "t.xlsx", "")
