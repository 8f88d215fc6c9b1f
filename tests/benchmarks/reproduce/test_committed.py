"""The committed comparison is what the committed records say, to the byte; they hold all of the plan."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.reproduce import world
from benchmarks.reproduce.page import RECORDS
from benchmarks.reproduce.records import known

DOCS = Path(__file__).parents[3] / "docs" / "world-table"


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, made of the records alone."""
    out = tmp_path_factory.mktemp("again")
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "world-table", "--records", str(DOCS / RECORDS), "--out", str(out)])
    assert not ended.value.code
    return out


def test_every_cell_of_the_plan_is_on_record(tmp_path: Path) -> None:
    cells = world.cells(world.FULL)
    assert list(known(cells, tmp_path, DOCS / RECORDS)) == [cell.name for cell in cells]


def test_the_page_is_the_committed_one(again: Path) -> None:
    assert not (again / "train").exists()  # nothing was done again
    assert (again / "page" / "report.md").read_text() == (DOCS / "report.md").read_text()


def cells_of(board: Path) -> list[dict[str, object]]:
    """Numbers as such: another machine may sum in another order."""
    return [
        {key: number(value) for key, value in line.items() if key != "made_with"}
        for line in csv.DictReader(io.StringIO(board.read_text(encoding="utf-8")))
    ]


def number(text: str) -> object:
    try:
        return pytest.approx(float(text), rel=1e-6, abs=1e-9)
    except ValueError:
        return text


@pytest.mark.parametrize("name", ["headline", "exploratory"])
def test_the_boards_are_the_committed_ones(again: Path, name: str) -> None:
    expected = cells_of(DOCS / name / "leaderboard.csv")
    assert len(expected) > 100
    found = csv.DictReader(io.StringIO((again / "page" / name / "leaderboard.csv").read_text()))
    for line, own in zip(found, expected, strict=True):
        for key, value in own.items():
            assert (line[key] if isinstance(value, str) else float(line[key])) == value, key
