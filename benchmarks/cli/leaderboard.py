"""`tcbench leaderboard`: compare runs with a baseline, as tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def _leaderboard(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders that hold some.", show_default=False)
    ],
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline", "-b", help="System to compare with; SYSTEM@ID if it has several runs of a suite."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables and pictures.")] = Path(
        "board"
    ),
    date: Annotated[
        str | None, typer.Option("--date", help="Date to stamp the files with; none by default.")
    ] = None,
) -> None:
    """Compare runs with a baseline: mean gains, ranks and verdicts.

    Prints a table for each suite: gains over the baseline in standard deviations, with 95 % intervals. Writes
    leaderboard.md, .csv (one line for each cell), .wide.csv (one line for each run), .json and .tex,
    differences.png and samples.png.
    """
    from benchmarks.cli.tables import text_table, wrapped
    from benchmarks.systems import System
    from leaderboards.builder import build
    from leaderboards.files import write_board
    from leaderboards.render import standing_rows
    from tcbench.files import check_writable

    check_writable(out)
    board = build(runs, baseline, unknown_rewards=System.unknown_rewards)
    files = write_board(board, out, date)  # first: output may fail, as in a closed pipe
    for section in board.sections:
        against = f", baseline {section.baseline}" if section.baseline else ""
        print(f"suite {section.suite}{against}")
        print(text_table(standing_rows(section)))
        if marks := section.watermarks:
            print(wrapped(f"Not a full result: {'; '.join(marks)}."))
        print(*map(wrapped, section.notes), sep="\n", end="\n\n" if section.notes else "\n")
    for path in files:
        print(path)
