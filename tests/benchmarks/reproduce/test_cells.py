"""Cells: done once, in order of need, gone on with after a failure."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from benchmarks.reproduce.cells import Cell, CellFailed, keys, seconds, work
from leaderboards.journal import RunFolderError, exclusive
from textcraftor.progress import Progress, Silent


def note(folder: Path, progress: Progress, name: str, text: str = "") -> None:
    """Leaves a line, so that one sees how often and in which order cells were done."""
    with (folder / "order").open("a") as file:
        file.write(name + text + "\n")
    progress.note(f"did {name}")


def breaks(folder: Path, progress: Progress, until: str) -> None:
    """Fails until a file is there."""
    if not (folder / until).exists():
        raise ValueError(f"no {until}")


def dies(folder: Path, progress: Progress, until: str) -> None:
    """Ends its process, as the system does where memory is short."""
    if not (folder / until).exists():
        os.kill(os.getpid(), signal.SIGKILL)


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


@pytest.mark.parametrize("jobs", [1, 2])
def test_cells_are_done_once_after_what_they_need(tmp_path: Path, jobs: int) -> None:
    cells = [
        Cell("first", 1, note, {"name": "first"}),
        Cell("last", 1, note, {"name": "last"}, ("first",)),
        Cell("other", 1, note, {"name": "other"}, ("first", "last")),
    ]
    work(cells, tmp_path, jobs, Silent())
    work(cells, tmp_path, jobs, Silent())
    assert order(tmp_path) == ["first", "last", "other"]
    assert (tmp_path / "cells" / "last.log").read_text() == "did last\n"
    took = [seconds(tmp_path, name, key) for name, key in keys(cells).items()]
    assert all(one is not None and one >= 0 for one in took)


def test_a_cell_that_is_asked_otherwise_is_done_again(tmp_path: Path) -> None:
    after, apart = (
        Cell("after", 1, note, {"name": "after"}, ("one",)),
        Cell("apart", 1, note, {"name": "apart"}),
    )
    work([Cell("one", 1, note, {"name": "one"}), after, apart], tmp_path, 1, Silent())
    changed = Cell("one", 1, note, {"name": "one", "text": "-anew"})
    work([changed, after, apart], tmp_path, 1, Silent())
    assert order(tmp_path) == ["one", "after", "apart", "one-anew", "after"]  # and what needs it


def test_a_failure_names_its_cell_and_keeps_what_is_done(tmp_path: Path) -> None:
    cells = [
        Cell("good", 1, note, {"name": "good"}),
        Cell("bad", 1, breaks, {"until": "mended"}, ("good",)),
        Cell("after", 1, note, {"name": "after"}, ("bad",)),
    ]
    with pytest.raises(CellFailed, match=r"cell bad: no mended; what is done is kept, see .*bad\.log"):
        work(cells, tmp_path, 1, Silent())
    assert "Traceback" in (tmp_path / "cells" / "bad.log").read_text()
    (tmp_path / "mended").touch()
    work(cells, tmp_path, 1, Silent())
    assert order(tmp_path) == ["good", "after"]


def test_a_killed_process_is_said_and_its_cell_is_done_again(tmp_path: Path) -> None:
    cells = [Cell("dies", 1, dies, {"until": "mended"}), Cell("after", 1, note, {"name": "after"}, ("dies",))]
    with pytest.raises(CellFailed, match="a process ended by itself while it did dies"):
        work(cells, tmp_path, 1, Silent())
    (tmp_path / "mended").touch()
    work(cells, tmp_path, 1, Silent())
    assert order(tmp_path) == ["after"]


def test_two_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "cells"),
        pytest.raises(RunFolderError, match="another process is working"),
    ):
        work([Cell("one", 1, note, {"name": "one"})], tmp_path, 1, Silent())
