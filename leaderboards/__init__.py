"""Run folders, statistics and leaderboards. Needs no torch.

    import leaderboards

    board = leaderboards.build("runs", baseline="micro")
    for standing in board.sections[0].standings:
        print(standing.rank, standing.label, standing.verdict)
    leaderboards.write_board(board, "board")

Names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcbench.lazy import lazy_attributes

if TYPE_CHECKING:
    from leaderboards.board import Board
    from leaderboards.builder import build
    from leaderboards.files import write_board
    from leaderboards.run_state import RunState, find_runs

__all__ = ["Board", "RunState", "build", "find_runs", "write_board"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Board": "leaderboards.board",
        "RunState": "leaderboards.run_state",
        "build": "leaderboards.builder",
        "find_runs": "leaderboards.run_state",
        "write_board": "leaderboards.files",
    },
)


def __dir__() -> list[str]:
    return __all__
