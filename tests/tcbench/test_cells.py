"""The runner of resumable cells: order, keys, failures, locks."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tcbench.cells import (
    CellRecord,
    WorkCell,
    cell_keys,
    run_cells,
    unfinished_cells,
)
from tcbench.errors import TcbenchError
from tcbench.files import locked
from tcbench.progress import Progress, Silent


def write_line(folder: Path, progress: Progress, text: str) -> list[Path]:
    """Append a line to "order", which shows how often and in which order cells ran."""
    with (folder / "order").open("a") as file:
        file.write(text + "\n")
    progress.note(f"wrote {text}")
    return [folder / "order"]


def fail_without(folder: Path, progress: Progress, path: str) -> list[Path]:
    if not (folder / path).exists():
        raise ValueError(f"{path} not found")
    return []


def die_without(folder: Path, progress: Progress, path: str) -> list[Path]:
    """End the process as the system does when memory runs out."""
    if not (folder / path).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return []


def line_cell(name: str, *needs: str, text: str = "") -> WorkCell:
    return WorkCell(name, "line", write_line, {"text": text or name}, needs)


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_cell_runs_once_after_the_cells_it_needs(tmp_path: Path, jobs: int) -> None:
    cells = [line_cell("first"), line_cell("second", "first"), line_cell("third", "first", "second")]
    run_cells(cells, tmp_path, jobs, Silent())
    run_cells(cells, tmp_path, jobs, Silent())
    assert order(tmp_path) == ["first", "second", "third"]
    assert (tmp_path / "cells" / "second.log").read_text() == "wrote second\n"
    records = [CellRecord.read(tmp_path, name, key) for name, key in cell_keys(cells).items()]
    assert all(record is not None and record.keeps == ["order"] for record in records)


def test_changed_options_rerun_a_cell_and_the_cells_that_need_it(tmp_path: Path) -> None:
    run_cells([line_cell("one"), line_cell("after", "one"), line_cell("apart")], tmp_path, 1, Silent())
    changed = [line_cell("one", text="one-again"), line_cell("after", "one"), line_cell("apart")]
    run_cells(changed, tmp_path, 1, Silent())
    assert order(tmp_path) == ["one", "after", "apart", "one-again", "after"]


def test_a_key_depends_on_the_task_and_not_on_the_function() -> None:
    cell = line_cell("one")
    moved = WorkCell("one", "line", partial(fail_without), {"text": "one"})
    other = WorkCell("one", "other", write_line, {"text": "one"})
    keys = [cell_keys([each])["one"] for each in (cell, moved, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_failure_names_the_cell_and_finished_cells_are_kept(tmp_path: Path) -> None:
    cells = [
        line_cell("good"),
        WorkCell("bad", "fail", fail_without, {"path": "fixed"}, ("good",)),
        line_cell("after", "bad"),
    ]
    with pytest.raises(TcbenchError, match=r"cell bad: fixed not found; finished work is kept.*bad\.log"):
        run_cells(cells, tmp_path, 1, Silent())
    assert "Traceback" in (tmp_path / "cells" / "bad.log").read_text()
    (tmp_path / "fixed").touch()
    run_cells(cells, tmp_path, 1, Silent())
    assert order(tmp_path) == ["good", "after"]


def test_a_killed_process_is_reported_and_its_cell_runs_again(tmp_path: Path) -> None:
    cells = [WorkCell("dies", "die", die_without, {"path": "fixed"}), line_cell("after", "dies")]
    with pytest.raises(TcbenchError, match="a process was killed while it ran dies"):
        run_cells(cells, tmp_path, 1, Silent())
    (tmp_path / "fixed").touch()
    run_cells(cells, tmp_path, 1, Silent())
    assert order(tmp_path) == ["after"]


def test_two_starts_cannot_work_in_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "cells"), pytest.raises(TcbenchError, match="another process is working"):
        run_cells([line_cell("one")], tmp_path, 1, Silent())


def test_processes_get_the_environment_and_the_caller_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    seen: list[list[str]] = []
    cell = WorkCell("threads", "threads", write_threads)
    run_cells([cell], tmp_path, 1, Silent(), watch=lambda running: seen.append(list(running)))
    assert order(tmp_path) == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert seen[-1] == []


def write_threads(folder: Path, progress: Progress) -> list[Path]:
    return write_line(folder, progress, os.environ["OMP_NUM_THREADS"])


def test_a_restored_cell_runs_again_only_if_another_needs_more_than_its_archive(tmp_path: Path) -> None:
    cells = [line_cell("train"), line_cell("run", "train"), line_cell("other", "train")]
    run_cells(cells[:2], tmp_path, 1, Silent())
    for name in ("train", "run"):
        record = CellRecord.read(tmp_path, name)
        assert record is not None
        replace(record, restored=True).write(tmp_path, name)
    assert unfinished_cells(cells[:2], tmp_path) == []
    assert [cell.name for cell in unfinished_cells(cells, tmp_path)] == ["train", "other"]
