"""Write a board's files."""

from __future__ import annotations

from pathlib import Path

from leaderboards.board import Board, Stamp
from leaderboards.formats import table_files
from leaderboards.markdown import markdown
from tcbench.environment import commit, installed_version
from tcbench.files import check_writable, write_atomically

COMPUTING = ("tcbench", "numpy", "scipy")
"""Libraries whose versions a board is stamped with."""


def write_board(
    board: Board, out: Path | str, date: str | None = None, *, samples: bool = True, with_commit: bool = True
) -> list[Path]:
    """Write a board as tables and pictures.

    Args:
        board: The board.
        out: Folder for leaderboard.md, .csv (one line for each cell), .wide.csv (one line for each run),
            .json and .tex, differences.png and samples.png. It is created if necessary. A picture with
            nothing to show is not written, and removed if an earlier board left it.
        date: Date to stamp the files with; by default they have none, so that the same runs give the same
            bytes.
        samples: Whether to write samples.png.
        with_commit: Whether to stamp the files with the commit of this checkout. Without it, the same runs
            give the same bytes in later checkouts too.

    Returns:
        Paths of the files.

    Raises:
        ConfigError: If nothing can be written into ``out``.
    """
    from leaderboards.pictures import draw_differences, draw_samples, png

    folder = Path(out)
    check_writable(folder)
    versions = {name: version for name in COMPUTING if (version := installed_version(name))}
    stamp = Stamp(versions, commit() if with_commit else None, date)
    figures = {
        "differences.png": draw_differences(board),
        "samples.png": draw_samples(board) if samples else None,
    }
    pictures = {name: png(figure) for name, figure in figures.items() if figure is not None}
    files = {
        "leaderboard.md": markdown(board, stamp, list(pictures)).encode(),
        **{name: text.encode() for name, text in table_files(board, stamp).items()},
        **pictures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    for name in figures.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in files]
