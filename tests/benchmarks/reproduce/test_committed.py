"""The committed archives of the first edition of the embedded world: whole, and not mixed with new cells."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reproduce import world
from benchmarks.reproduce.archives import SUFFIX, CellArchives, _read_manifest
from benchmarks.reproduce.report import RECORDS
from tcbench.files import sha256

RECORDS_FOLDER = Path(__file__).parents[3] / "docs" / "world-table" / RECORDS


def test_the_manifest_has_the_archives_hashes() -> None:
    manifest = {name: entry.sha256 for name, entry in _read_manifest(RECORDS_FOLDER).items()}
    archives = {path.name.removesuffix(SUFFIX): sha256(path) for path in RECORDS_FOLDER.glob(f"*{SUFFIX}")}
    assert manifest == archives
    assert len(archives) > 30


def test_the_current_plan_restores_none_of_them(tmp_path: Path) -> None:
    """Their cells have the same names, and other weights and prompts."""
    cells = world.plan_cells(world.FULL)
    assert {cell.name for cell in cells} & _read_manifest(RECORDS_FOLDER).keys()
    assert CellArchives(RECORDS_FOLDER).restorable(cells, tmp_path) == {}
