"""The archive of cells: restored elsewhere, portable, checked against the manifest."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

import textcraftor
from benchmarks.reproduce.archives import ARCHIVE, MANIFEST, CellArchive
from tcbench.cells import CellRecord, WorkCell, cell_keys, run_cells, unfinished_cells
from tcbench.errors import FileFormatError, MismatchError, MissingFiles
from tcbench.progress import Progress, Silent

INSTALLED = Path(textcraftor.__file__).parents[1]


def write_file(folder: Path, progress: Progress, name: str, text: str = "") -> list[Path]:
    path = folder / "results" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(name + text)
    return [path]


def write_paths(folder: Path, progress: Progress) -> list[Path]:
    """Write a file with paths of this machine."""
    path = folder / "paths.json"
    path.write_text(f'["{folder.resolve()}/train/x", "{INSTALLED}/textcraftor/micro"]')
    return [path]


def write_lines(folder: Path, progress: Progress, text: str) -> list[Path]:
    (folder / "rows.jsonl").write_text(text)
    return [folder / "rows.jsonl"]


def file_cell(name: str, *needs: str, text: str = "", light: bool = False) -> WorkCell:
    return WorkCell(name, "file", write_file, {"name": name, "text": text}, needs, light=light)


@pytest.fixture
def chain() -> list[WorkCell]:
    """A trial, a training run that is chosen by it, and two runs of the result."""
    return [
        file_cell("try", light=True),
        file_cell("train", "try"),
        file_cell("run", "train"),
        file_cell("other", "train"),
    ]


@pytest.fixture
def here(tmp_path: Path, chain: list[WorkCell]) -> Path:
    """Folder in which the whole chain is finished."""
    run_cells(chain, tmp_path / "here", 1, Silent())
    return tmp_path / "here"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("*.xz")}


def test_restored_cells_are_finished_and_archive_to_the_same_bytes(
    tmp_path: Path, here: Path, chain: list[WorkCell]
) -> None:
    there, archives = tmp_path / "there", tmp_path / "archives"
    CellArchive(archives).write(chain, here)
    before = contents(archives)
    assert before.keys() == {ARCHIVE}
    CellArchive(archives).restore(CellArchive(archives).restorable(chain, there), there)
    assert unfinished_cells(chain, there) == []
    assert (there / "results" / "run").read_text() == "run"
    assert CellArchive(archives).restorable(chain, there) == {}
    CellArchive(archives).write(chain, there)
    assert contents(archives) == before  # not even touched
    CellArchive(tmp_path / "again").write(chain, there)
    again = contents(tmp_path / "again")
    assert {name: content for name, (content, _) in again.items()} == {n: c for n, (c, _) in before.items()}


def test_the_manifests_key_decides(tmp_path: Path, here: Path, chain: list[WorkCell]) -> None:
    """A renamed option changes keys; a renewed manifest makes archives of the old name restorable."""
    there, archives = tmp_path / "there", tmp_path / "archives"
    CellArchive(archives).write(chain, here)
    before = contents(archives)
    renamed = [file_cell("try", text=" renamed", light=True), *chain[1:]]
    assert CellArchive(archives).restorable(renamed, there) == {}
    manifest = json.loads((archives / MANIFEST).read_text())
    for name, key in cell_keys(renamed).items():
        manifest["cells"][name] = key
    (archives / MANIFEST).write_text(json.dumps(manifest))
    CellArchive(archives).restore(CellArchive(archives).restorable(renamed, there), there)
    assert unfinished_cells(renamed, there) == []
    record = CellRecord.read(there, "try", cell_keys(renamed)["try"])
    assert record is not None
    assert record.restored
    CellArchive(archives).write(renamed, there)
    assert contents(archives) == before


def test_archives_name_no_path_of_the_machine(tmp_path: Path) -> None:
    cells, there = [WorkCell("paths", "paths", write_paths)], tmp_path / "there"
    run_cells(cells, tmp_path, 1, Silent())
    CellArchive(tmp_path / "archives").write(cells, tmp_path)
    CellArchive(tmp_path / "archives").restore(
        CellArchive(tmp_path / "archives").restorable(cells, there), there
    )
    assert (there / "paths.json").read_text() == '["train/x", "textcraftor/micro"]'


@pytest.mark.parametrize(
    ("text", "is_transposed"),
    [
        ('{"id": "a", "score": 1.5}\n{"id": "a", "score": null}\n', True),
        ('{"id": "a", "score": 1}\n{"id": "a", "score": 1.0}\n', True),  # equal, but not the same text
        ('{"id": "a", "text": "a caf\\u00e9"}\n', True),
        ('{"id": "a"}\n{"id": "a", "score": 1.0}\n', False),
        ('{"id": "a"}\n{"score": 1.0}\n', False),
        ('{"id":"a"}\n', False),  # other spaces
        ('{"id": "a"}\n{"id": "a', False),  # torn
        ('{"id": "a"}', False),
        ("[1]\n", False),
        ("", False),
    ],
)
def test_json_lines_are_restored_byte_for_byte(tmp_path: Path, text: str, is_transposed: bool) -> None:
    cells, there = [WorkCell("lines", "lines", write_lines, {"text": text})], tmp_path / "there"
    run_cells(cells, tmp_path, 1, Silent())
    archives = CellArchive(tmp_path / "archives")
    archives.write(cells, tmp_path)
    with tarfile.open(tmp_path / "archives" / ARCHIVE) as members:
        assert ("lines/rows.jsonl.columns" in members.getnames()) == is_transposed
    archives.restore(archives.restorable(cells, there), there)
    assert (there / "rows.jsonl").read_bytes() == text.encode()
    assert not (there / "rows.jsonl.columns").exists()


def test_a_cell_that_runs_gets_all_that_it_needs(tmp_path: Path, here: Path, chain: list[WorkCell]) -> None:
    there, archives = tmp_path / "there", tmp_path / "archives"
    CellArchive(archives).write(chain[:3], here)
    CellArchive(archives).restore(CellArchive(archives).restorable(chain, there), there)
    # "other" needs the weights of "train", which are not archived; of "try", which is light, all is.
    assert [cell.name for cell in unfinished_cells(chain, there)] == ["train", "other"]


def test_a_folder_without_archives_of_the_plan_is_refused(tmp_path: Path, chain: list[WorkCell]) -> None:
    (tmp_path / "backup.tar.xz").touch()
    with pytest.raises(MissingFiles, match="has no archive of this comparison"):
        CellArchive(tmp_path).restorable(chain, tmp_path)
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(FileFormatError, match="is not a manifest of archived cells"):
        CellArchive(tmp_path).restorable(chain, tmp_path)


def test_a_changed_archive_is_refused(tmp_path: Path, here: Path, chain: list[WorkCell]) -> None:
    there, archives = tmp_path / "there", tmp_path / "archives"
    CellArchive(archives).write(chain, here)
    keys = CellArchive(archives).restorable(chain, there)
    (archives / ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(MismatchError, match=f"{ARCHIVE} is missing or differs from its sha256"):
        CellArchive(archives).restore(keys, there)
