"""Make the pictures and the results of docs/tutorials/compare-encoders.md again.

    python scripts/tour.py

The script runs the commands of the tutorial's first two sections in a temporary folder, so that text,
pictures and commands cannot disagree.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = _ROOT / "docs/tutorials/compare-encoders.md"
_RESULTS = re.compile(r"(<!-- results: [^\n]*-->\n).*?(<!-- end of results -->)", re.DOTALL)


def main() -> None:
    """Run the commands, copy the pictures, and write the results into the page."""
    page = _PAGE.read_text(encoding="utf-8")
    count = len(_RESULTS.findall(page))
    if count != 1:  # before the commands, which take minutes
        sys.exit(f"{_PAGE} has {count} places for results; expected one, between the comments of results")
    with TemporaryDirectory() as folder:
        for command in _commands(page):
            print(shlex.join(command), file=sys.stderr)
            subprocess.run(
                [sys.executable, "-m", "tcbench", *command[1:]],
                cwd=folder,
                check=True,
                env=os.environ | {"PYTHONPATH": str(_ROOT)},
            )
        board = Path(folder, "board")
        for name in ("samples", "differences"):
            shutil.copyfile(board / f"{name}.png", _ROOT / f"docs/tour-{name}.png")
        record = json.loads((board / "leaderboard.json").read_text(encoding="utf-8"))
    _PAGE.write_text(_RESULTS.sub(rf"\1\n{_results(record)}\n\n\2", page), encoding="utf-8")


def _commands(page: str) -> list[list[str]]:
    """Return the commands up to the first board."""
    lines = re.findall(r"^    (tcbench .+)$", page, re.MULTILINE)
    last = next(i for i, line in enumerate(lines) if line.startswith("tcbench leaderboard"))
    return [shlex.split(line) for line in lines[: last + 1]]


def _results(board: Mapping[str, Any]) -> str:
    """Return one bullet per claim: rewards with their difference to the baseline and its 95 % interval."""
    section = board["sections"][0]
    cells = [c for c in section["cells"] if c["category"] is None and c["comparison"] is not None]
    prompts = max(cell["comparison"]["difference"]["n"] for cell in cells)
    bullets = [
        f"- **{claim}**: {', '.join(map(_difference, chosen))}."
        for claim in ("better", "worse", "undecided")
        if (chosen := [cell for cell in cells if cell["claim"] == claim])
    ]
    return "\n".join(
        [
            f"On {prompts} prompts, `{cells[0]['system']}` is, compared with `{section['baseline']}`:",
            "",
            *bullets,
        ]
    )


def _difference(cell: Mapping[str, Any]) -> str:
    difference = cell["comparison"]["difference"]
    value, low, high = (f"{difference[name]:+#.3g}" for name in ("value", "low", "high"))
    return f"{cell['reward']} {value} [{low}, {high}]"


if __name__ == "__main__":
    main()
