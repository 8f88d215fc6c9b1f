"""The committed report of the comparison regenerates from the committed archives."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.reproduce import world
from benchmarks.reproduce.archives import SUFFIX, CellArchives, _read_manifest
from benchmarks.reproduce.report import RECORDS
from tcbench.cells import cell_keys
from tcbench.files import sha256

DOCS = Path(__file__).parents[3] / "docs" / "world-table"
CELLS = world.plan_cells(world.FULL)


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of `tcbench reproduce world-table` from the archives alone."""
    out = tmp_path_factory.mktemp("regenerated")
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "world-table", "--records", str(DOCS / RECORDS), "--out", str(out)])
    assert not ended.value.code
    return out


def test_the_manifest_has_the_plans_keys_and_the_archives_hashes(tmp_path: Path) -> None:
    manifest = _read_manifest(DOCS / RECORDS)
    assert {name: entry.key for name, entry in manifest.items()} == cell_keys(CELLS)
    hashes = {path.name.removesuffix(SUFFIX): sha256(path) for path in (DOCS / RECORDS).glob(f"*{SUFFIX}")}
    assert {name: entry.sha256 for name, entry in manifest.items()} == hashes
    assert list(CellArchives(DOCS / RECORDS).restorable(CELLS, tmp_path)) == [cell.name for cell in CELLS]


def test_the_report_is_the_committed_one(regenerated: Path) -> None:
    assert not (regenerated / "train").exists()  # nothing was run again
    assert (regenerated / "page" / "report.md").read_text() == (DOCS / "report.md").read_text()


def rows(board: Path) -> list[dict[str, object]]:
    """Rows of a board, numbers to be compared approximately: another machine may sum in another order."""
    return [
        {key: number(value) for key, value in row.items() if key != "made_with"}
        for row in csv.DictReader(io.StringIO(board.read_text(encoding="utf-8")))
    ]


def number(text: str) -> object:
    try:
        return pytest.approx(float(text), rel=1e-6, abs=1e-9)
    except ValueError:
        return text


@pytest.mark.parametrize("name", ["headline", "exploratory"])
def test_the_boards_are_the_committed_ones(regenerated: Path, name: str) -> None:
    expected = rows(DOCS / name / "leaderboard.csv")
    assert len(expected) > 100
    board = (regenerated / "page" / name / "leaderboard.csv").read_text()
    for row, expected_row in zip(csv.DictReader(io.StringIO(board)), expected, strict=True):
        for key, value in expected_row.items():
            assert (row[key] if isinstance(value, str) else float(row[key])) == value, key
