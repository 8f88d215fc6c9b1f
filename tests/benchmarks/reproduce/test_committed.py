"""The committed comparison is what the committed records say, to the byte; they hold all of the plan."""

from __future__ import annotations

import csv
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


@pytest.mark.parametrize("name", ["headline", "exploratory"])
def test_the_boards_are_the_committed_ones(again: Path, name: str) -> None:
    ours, theirs = (
        [
            {key: value for key, value in line.items() if key != "made_with"}
            for line in csv.DictReader((place / name / "leaderboard.csv").open(encoding="utf-8"))
        ]
        for place in (again / "page", DOCS)
    )
    assert len(theirs) > 100
    assert ours == theirs
