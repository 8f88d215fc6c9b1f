"""`tcbench leaderboard`: compare runs with a baseline, as tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from leaderboards.board import Board, Section

COMPUTING = ("tcbench", "numpy", "scipy")
"""Libraries whose versions a board is stamped with."""


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them.", show_default=False)],
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline", "-b", help="The system to compare with; SYSTEM@ID where it has several runs."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables and pictures.")] = Path(
        "board"
    ),
    date: Annotated[
        str | None, typer.Option("--date", help="A date to stamp the files with; else they bear none.")
    ] = None,
) -> None:
    """Compare runs: means, intervals, paired differences to a baseline.

    Every suite is a section of its own. Writes leaderboard.md, .csv (a line a cell), .wide.csv (a line a
    system), .json and .tex, differences.png and samples.png, and prints the headline table.
    """
    from leaderboards.render import SHORT_LEGEND
    from leaderboards.run_state import find_runs
    from leaderboards.table import build

    board = build(find_runs(runs), baseline)
    for section in board.sections:
        print("\n".join(_lines(section)), end="\n\n")
    print(SHORT_LEGEND)
    for path in write(board, out, date):
        print(path)


def write(board: Board, out: Path, date: str | None = None) -> list[Path]:
    """Write the board's files into `out`; returns their paths. A picture with nothing to show is left out."""
    from leaderboards.formats import Stamp, csv_long, csv_wide, json_text, latex
    from leaderboards.markdown import markdown
    from leaderboards.pictures import draw_differences, draw_samples, png
    from tcbench.environment import commit, installed_version
    from tcbench.files import write_atomically

    made = {name: version for name in COMPUTING if (version := installed_version(name))}
    stamp = Stamp(made, commit(), date)
    drawn = {"differences.png": draw_differences(board), "samples.png": draw_samples(board)}
    pictures = {name: png(figure) for name, figure in drawn.items() if figure is not None}
    files = {
        "leaderboard.md": markdown(board, stamp, list(pictures)).encode(),
        "leaderboard.csv": csv_long(board, stamp).encode(),
        "leaderboard.wide.csv": csv_wide(board, stamp).encode(),
        "leaderboard.json": json_text(board, stamp).encode(),
        "leaderboard.tex": latex(board, stamp).encode(),
        **pictures,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(out / name, content)
    for name in drawn.keys() - files.keys():
        (out / name).unlink(missing_ok=True)  # of an earlier board, and no longer true
    return [out / name for name in files]


def _lines(section: Section) -> Iterator[str]:
    """The headline of one suite for a terminal."""
    from benchmarks.cli.tables import text_table
    from leaderboards.render import headline, transposed

    yield f"suite {section.suite}"
    yield text_table(transposed(headline(section)))
    yield from section.notes
