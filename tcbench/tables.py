"""Read tables: text, CSV, TSV, JSON and JSON lines, with the line or entry of each row for messages.

The readers of pandas are not used here: they fill short rows with missing values and guess types, while a
prompt file or a score table with a damaged row must be refused with its line number.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tcbench.errors import FileFormatError


class Row(NamedTuple):
    """One row of a table."""

    where: str
    """"line 7" of a text file, or "entry 7" of a JSON file."""
    value: Any
    """The line (text), a mapping of column names to text (CSV, TSV), or any JSON value."""


def read_table(path: Path, *, kinds: Sequence[str], quoted_tsv: bool = False) -> Iterator[Row]:
    """Yield the rows of a table, in file order.

    Column names are stripped; trailing columns without a name and empty cells beyond them, which spreadsheets
    write, are dropped. Empty lines are skipped.

    Args:
        path: A .txt file (every line is a row), or a .csv, .tsv, .json (a list, or an object of lists) or
            .jsonl file. UTF-8 with or without a byte-order mark, or UTF-16 with one.
        kinds: The suffixes that are accepted.
        quoted_tsv: Whether double quotes enclose cells of a .tsv file; otherwise they are part of the text.

    Raises:
        FileFormatError: If the file cannot be read, with file, line and fix.
    """
    kind = path.suffix.lower()
    if kind not in kinds:
        known = ", ".join(kinds)
        raise FileFormatError(f"{path}: unknown file type {path.suffix!r}; expected one of {known}")
    text = _read_text(path)
    if kind == ".txt":
        lines = enumerate(text.split("\n"), 1)
        return (Row(f"line {number}", line) for number, line in lines if line.strip())
    if kind == ".csv":
        return _delimited_rows(path, text, ",", csv.QUOTE_MINIMAL)
    if kind == ".tsv":
        return _delimited_rows(path, text, "\t", csv.QUOTE_MINIMAL if quoted_tsv else csv.QUOTE_NONE)
    return _json_rows(path, text) if kind == ".json" else _json_line_rows(path, text)


def _read_text(path: Path) -> str:
    """Return a text file with newlines as line ends: UTF-8, or UTF-16 with a byte-order mark.

    Raises:
        FileFormatError: If the file cannot be read or is in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror}") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileFormatError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file, for "
            f"instance: iconv -f latin1 -t utf-8 {path.name}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _delimited_rows(path: Path, text: str, delimiter: str, quoting: Any) -> Iterator[Row]:
    # strict: an unclosed quote would otherwise swallow the rest of the file as one cell
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or []]
        while names and not names[-1]:
            names.pop()
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise FileFormatError(
                f"{path}, line 1: two columns are called {twice[0]!r}; rename or remove one"
            )
        reader.fieldnames = names
        for row in reader:
            where = f"line {reader.line_num}"
            beyond = row.pop(None, None) or []  # cells without a column
            if None in row.values() or any(cell.strip() for cell in beyond):
                raise FileFormatError(
                    f"{path}, {where}: expected {len(names)} cells, as in line 1; fix the row"
                )
            yield Row(where, row)
    except csv.Error as error:
        raise FileFormatError(
            f"{path}, line {reader.line_num}: {error}; fix the quotes of the row"
        ) from error


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    content = _parse(path, text, lines_before=0)
    if isinstance(content, dict) and all(isinstance(items, list) for items in content.values()):
        content = [{"prompt": item, "category": name} for name, items in content.items() for item in items]
    if not isinstance(content, list):
        raise FileFormatError(f"{path}: expected a list, or an object of lists by category")
    for number, item in enumerate(content, 1):
        yield Row(f"entry {number}", item)


def _json_line_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Row(f"line {number}", _parse(path, line, lines_before=number - 1))


def _parse(path: Path, text: str, lines_before: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = lines_before + error.lineno
        raise FileFormatError(f"{path}, line {line}: not JSON ({error.msg}); fix the line") from error
