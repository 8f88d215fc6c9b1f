"""Tables for the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from shutil import get_terminal_size
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_NARROWEST = 12
"""Width that a column of longer text needs at least; below it a table becomes a list of records."""


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as aligned columns below a header line, or an empty string if there are none.

    The text of cells is wrapped so that no line is longer than the terminal, or than the variable COLUMNS;
    without either, as in a pipe, lines are never wrapped.

    Args:
        rows: Rows with the same keys.
    """
    if not rows:
        return ""
    width = _terminal_width()
    unwrapped = _rendered(rows, None)
    if width is None or max(map(cell_len, unwrapped.splitlines())) <= width:
        return unwrapped
    return _rendered(rows, width) if _fits(rows, width) else _records(rows, width)


def wrapped(text: str) -> str:
    """Return text in lines that fit the terminal, where a character of East Asian scripts takes two columns.

    As in `text_table`, lines are not wrapped in a pipe.
    """
    width = _terminal_width()
    if width is None:
        return text
    return "\n".join(line.plain.rstrip() for line in Text(text).wrap(Console(width=width), width))


def _terminal_width() -> int | None:
    """Columns of the terminal; None if the output goes elsewhere and COLUMNS is not set."""
    return get_terminal_size().columns if os.environ.get("COLUMNS") or sys.stdout.isatty() else None


def _rendered(rows: Sequence[Mapping[str, Any]], width: int | None) -> str:
    padding = (0, 2, 0, 0) if width is None else (0, 2, 1, 0)  # an empty line between rows of wrapped cells
    table = Table(box=None, pad_edge=False, padding=padding)
    for name in rows[0]:
        table.add_column(Text(name), no_wrap=width is None, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    return _text(table, width)


def _fits(rows: Sequence[Mapping[str, Any]], width: int) -> bool:
    """Whether columns side by side leave each of them a width in which its text can be read."""
    narrowest = [
        max(cell_len(name), *(min(_NARROWEST, cell_len(str(row[name]))) for row in rows)) for name in rows[0]
    ]
    return sum(narrowest) + 2 * len(narrowest) <= width


def _records(rows: Sequence[Mapping[str, Any]], width: int) -> str:
    """Rows below each other, with a line for each cell that is not empty."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        for name, value in row.items():
            if str(value):
                table.add_row(Text(name), Text(str(value)))
        table.add_row()
    return _text(table, width).rstrip()


def _text(table: Table, width: int | None) -> str:
    output = StringIO()
    Console(file=output, color_system=None, width=width or 100_000).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
