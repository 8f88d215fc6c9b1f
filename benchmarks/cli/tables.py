"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as aligned columns below a header line, or an empty string if there are none.

    Lines are never wrapped or shortened, so that the output can be piped into other tools.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return ""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in rows[0]:
        table.add_column(Text(name), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    output = StringIO()
    console = Console(file=output, color_system=None, width=100_000)
    console.print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
