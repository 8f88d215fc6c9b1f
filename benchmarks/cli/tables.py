"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any


def text_table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Return ``rows`` as aligned columns below a header line, or an empty string if there are none.

    Args:
        rows: Rows with the same keys.
        width: Wrap the text of cells so that no line is longer. By default lines are never wrapped or
            shortened, so that the output can be piped into other tools.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return ""
    padding = (0, 2, 0, 0) if width is None else (0, 2, 1, 0)  # an empty line between rows of wrapped cells
    table = Table(box=None, pad_edge=False, padding=padding)
    for name in rows[0]:
        table.add_column(Text(name), no_wrap=width is None, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    output = StringIO()
    console = Console(file=output, color_system=None, width=width or 100_000)
    console.print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
