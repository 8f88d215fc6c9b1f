"""Cells: done once, in order of need, gone on with after a failure."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from benchmarks.reproduce.cells import Cell, CellFailed, keys, record_of, undone, work
from benchmarks.reproduce.records import INSTALLED, keep, known, restore
from tcbench.errors import TcbenchError
from tcbench.files import locked
from tcbench.progress import Progress, Silent


def note(folder: Path, progress: Progress, name: str, text: str = "") -> list[Path]:
    """Leaves a line, so that one sees how often and in which order cells were done; and keeps a file."""
    with (folder / "order").open("a") as file:
        file.write(name + text + "\n")
    (folder / "made").mkdir(exist_ok=True)
    (folder / "made" / name).write_text(name)
    progress.note(f"did {name}")
    return [folder / "made" / name]


def breaks(folder: Path, progress: Progress, until: str) -> list[Path]:
    """Fails until a file is there."""
    if not (folder / until).exists():
        raise ValueError(f"no {until}")
    return []


def dies(folder: Path, progress: Progress, until: str) -> list[Path]:
    """Ends its process, as the system does where memory is short."""
    if not (folder / until).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return []


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
    records = [record_of(tmp_path, name, key) for name, key in keys(cells).items()]
    assert all(record is not None and record.seconds >= 0 for record in records)


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
        locked(tmp_path / "cells"),
        pytest.raises(TcbenchError, match="another process is working"),
    ):
        work([Cell("one", 1, note, {"name": "one"})], tmp_path, 1, Silent())


@pytest.fixture
def chain() -> list[Cell]:
    """What is tried, trained by that, drawn with that; and drawn otherwise."""
    return [
        Cell("try", 1, note, {"name": "try"}, light=True),
        Cell("train", 1, note, {"name": "train"}, ("try",)),
        Cell("run", 1, note, {"name": "run"}, ("train",)),
        Cell("other", 1, note, {"name": "other"}, ("train",)),
    ]


def test_what_is_kept_is_not_done_again_elsewhere(tmp_path: Path, chain: list[Cell]) -> None:
    here, there, kept = tmp_path / "here", tmp_path / "there", tmp_path / "kept"
    here.mkdir()
    there.mkdir()
    work(chain, here, 1, Silent())
    keep(chain, here, kept)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in kept.iterdir()}
    assert len(before) == 4
    restore(known(chain, there, kept), there, kept)
    assert undone(chain, there) == []
    work(chain, there, 1, Silent())
    assert not (there / "order").exists()
    assert (there / "made" / "run").read_text() == "run"
    keep(chain, there, kept)
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in kept.iterdir()} == before
    keep(chain, there, tmp_path / "again")
    assert {f.name: f.read_bytes() for f in (tmp_path / "again").iterdir()} == {
        f.name: content for f, (content, _) in before.items()
    }


def says_where(folder: Path, progress: Progress) -> list[Path]:
    """Keeps a file with places of this machine."""
    (folder / "place.json").write_text(f'["{folder.resolve()}/train/x", "{INSTALLED}/textcraftor/micro"]')
    return [folder / "place.json"]


def test_what_is_kept_names_no_place_of_the_machine(tmp_path: Path) -> None:
    cells, there = [Cell("says", 1, says_where)], tmp_path / "there"
    work(cells, tmp_path, 1, Silent())
    keep(cells, tmp_path, tmp_path / "kept")
    restore(known(cells, there, tmp_path / "kept"), there, tmp_path / "kept")
    assert (there / "place.json").read_text() == '["train/x", "textcraftor/micro"]'


def test_what_is_to_be_done_gets_all_that_it_needs(tmp_path: Path, chain: list[Cell]) -> None:
    here, there, kept = tmp_path / "here", tmp_path / "there", tmp_path / "kept"
    here.mkdir()
    there.mkdir()
    work(chain[:3], here, 1, Silent())
    keep(chain[:3], here, kept)
    restore(known(chain, there, kept), there, kept)
    assert [cell.name for cell in undone(chain, there)] == ["train", "other"]
    work(chain, there, 1, Silent())
    assert order(there) == ["train", "other"]


def test_only_what_was_asked_the_same_is_taken(tmp_path: Path, chain: list[Cell]) -> None:
    work(chain[:1], tmp_path, 1, Silent())
    keep(chain[:1], tmp_path, tmp_path / "kept")
    otherwise = Cell("try", 1, note, {"name": "try", "text": "-anew"}, light=True)
    there = tmp_path / "there"
    assert known([otherwise], there, tmp_path / "kept") == {}
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "backup.tar.xz").touch()
    for place in ("nowhere", "others"):
        with pytest.raises(ValueError, match=f"{place} holds no records of this comparison"):
            known(chain, there, tmp_path / place)
    (tmp_path / "kept" / "try.tar.xz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"try\.tar\.xz cannot be read .*: remove it"):
        known(chain, there, tmp_path / "kept")
