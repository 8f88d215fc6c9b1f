"""Cells: done once, in order of need, gone on with after a failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reproduce.cells import Cell, CellFailed, done, work
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


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


@pytest.mark.parametrize("jobs", [1, 2])
def test_cells_are_done_once_after_what_they_need(tmp_path: Path, jobs: int) -> None:
    cells = [
        Cell("last", 1, note, {"name": "last"}, ("first", "middle")),
        Cell("middle", 1, note, {"name": "middle"}, ("first",)),
        Cell("first", 1, note, {"name": "first"}),
    ]
    work(cells, tmp_path, jobs, Silent())
    work(cells, tmp_path, jobs, Silent())
    assert order(tmp_path) == ["first", "middle", "last"]
    assert (tmp_path / "cells" / "middle.log").read_text() == "did middle\n"
    record = done(tmp_path, cells[0])
    assert record is not None
    assert record.seconds >= 0


def test_a_cell_that_is_asked_otherwise_is_done_again(tmp_path: Path) -> None:
    work([Cell("one", 1, note, {"name": "one"})], tmp_path, 1, Silent())
    changed = Cell("one", 1, note, {"name": "one", "text": "-anew"})
    assert done(tmp_path, changed) is None
    work([changed], tmp_path, 1, Silent())
    assert order(tmp_path) == ["one", "one-anew"]


def test_a_failure_names_its_cell_and_keeps_what_is_done(tmp_path: Path) -> None:
    cells = [
        Cell("good", 1, note, {"name": "good"}),
        Cell("bad", 1, breaks, {"until": "mended"}, ("good",)),
        Cell("after", 1, note, {"name": "after"}, ("bad",)),
    ]
    with pytest.raises(CellFailed, match=r"cell bad: no mended; what is done is kept, see .*bad\.log"):
        work(cells, tmp_path, 1, Silent())
    (tmp_path / "mended").touch()
    work(cells, tmp_path, 1, Silent())
    assert order(tmp_path) == ["good", "after"]
    assert json.loads((tmp_path / "cells" / "bad.json").read_text())["asked"].endswith(
        '({"until": "mended"})'
    )
