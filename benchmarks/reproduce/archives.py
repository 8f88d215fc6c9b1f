"""The archive of finished cells: small enough for a repository, and enough to write the tables again.

``manifest.json`` has the key of each archived cell and the sha256 of ``cells.tar.xz``, in which each cell has
a folder. It is one archive because runs share prompts and noise, and JSON Lines are in it column by column:
this takes half the space of an archive for each cell.

`CellArchive.restore` puts cells back on another machine; they are not run again, unless a cell that has to
run needs more of one than the archive holds. The manifest's keys decide; the archive's own
``cells/<name>.json`` may hold older ones, so that its bytes never change.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tcbench.cells import CELLS, CellRecord, WorkCell, cell_keys
from tcbench.errors import FileFormatError, MismatchError, MissingFiles
from tcbench.files import sha256, write_atomically
from tcbench.launch import ROOT

ARCHIVE = "cells.tar.xz"
MANIFEST = "manifest.json"

_COLUMNS = ".columns"
"""Added to the name of a JSON Lines file that is archived column by column."""


@dataclass(frozen=True)
class _Manifest:
    """Content of ``manifest.json``."""

    sha256: str = ""
    """SHA-256 of the archive, in hex."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Keys of the archived cells (`tcbench.cells.cell_keys`), by name."""


@dataclass(frozen=True)
class CellArchive:
    """A folder with an archive of cells and its manifest."""

    folder: Path

    def write(self, cells: Sequence[WorkCell], folder: Path) -> None:
        """Archive the finished cells of the work in ``folder``.

        An archive of the same cells is left as it is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        read = {name: CellRecord.read(folder, name, key) for name, key in cell_keys(cells).items()}
        records = {name: record for name, record in read.items() if record is not None}
        keys = {name: record.key for name, record in records.items()}
        manifest, archive = self._manifest(), self.folder / ARCHIVE
        if manifest.cells == keys and archive.is_file() and sha256(archive) == manifest.sha256:
            return
        write_atomically(archive, _packed(folder, records))
        content = json.dumps(asdict(_Manifest(sha256(archive), keys)), indent=1) + "\n"
        write_atomically(self.folder / MANIFEST, content.encode())

    def restorable(self, cells: Sequence[WorkCell], folder: Path) -> dict[str, str]:
        """Return names and keys of the cells that are archived as planned and not finished in ``folder``.

        Raises:
            MissingFiles: If none of the cells is archived.
        """
        archived, keys = self._manifest().cells, cell_keys(cells)
        if not archived.keys() & keys.keys():
            raise MissingFiles(
                f"{self.folder} has no archive of this comparison: give the folder beside its report.md "
                f"that has a {MANIFEST}"
            )
        return {
            name: key
            for name, key in keys.items()
            if archived.get(name) == key and CellRecord.read(folder, name, key) is None
        }

    def restore(self, keys: Mapping[str, str], folder: Path) -> None:
        """Unpack cells of `restorable` into ``folder`` and record them as finished.

        Raises:
            MismatchError: If the archive is missing or differs from the manifest.
        """
        archive = self.folder / ARCHIVE
        if not archive.is_file() or sha256(archive) != self._manifest().sha256:
            raise MismatchError(
                f"{archive} is missing or differs from its sha256 in {MANIFEST}: restore both, or leave out "
                "--records to run the cells again"
            )
        with tarfile.open(archive, "r:xz") as members:
            for member in members:
                name, _, path = member.name.partition("/")
                packed = members.extractfile(member)
                if name in keys and packed is not None:
                    # raises an error for a path outside of the folder
                    path = tarfile.data_filter(member.replace(name=path, deep=False), str(folder)).name
                    content = packed.read()
                    if path.endswith(_COLUMNS):
                        path, content = path.removesuffix(_COLUMNS), _lines(content)
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(folder / path, content)
        for name, key in keys.items():
            record = CellRecord.read(folder, name)
            assert record is not None
            replace(record, key=key, restored=True).write(folder, name)

    def _manifest(self) -> _Manifest:
        """Return the manifest; an empty one if there is none.

        Raises:
            FileFormatError: If it is damaged.
        """
        path = self.folder / MANIFEST
        if not path.is_file():
            return _Manifest()
        try:
            manifest = _Manifest(**json.loads(path.read_bytes()))
            dict(manifest.cells)
        except (ValueError, TypeError) as error:
            raise FileFormatError(
                f"{path} is not a manifest of archived cells ({error}): restore it"
            ) from error
        return manifest


def _packed(folder: Path, records: Mapping[str, CellRecord]) -> bytes:
    """Return the archive. The same cells give the same bytes: no times, owners or absolute paths."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz", preset=9) as members:
        for name, record in records.items():
            for path, content in _files(folder, name, record):
                member = tarfile.TarInfo(f"{name}/{path}")
                member.size = len(content)
                members.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _files(folder: Path, name: str, record: CellRecord) -> Iterator[tuple[str, bytes]]:
    """Yield a cell's files as they are archived."""
    for path in record.keeps:
        content = (folder / path).read_bytes()
        if path.endswith(".json"):
            content = _portable(content, folder)
        columns = _columns(content) if path.endswith(".jsonl") else None
        yield (path, content) if columns is None else (f"{path}{_COLUMNS}", columns)
    yield f"{CELLS}/{name}.json", replace(record, restored=False).content


def _columns(lines: bytes) -> bytes | None:
    """Return the columns of a JSON Lines file whose rows have the same fields; None if `_lines` of them would
    not be the same bytes.
    """
    try:
        rows = [json.loads(line) for line in lines.splitlines()]
        names = list(rows[0])
        columns = {name: [row[name] for row in rows] for name in names}
    except (ValueError, LookupError, TypeError):
        return None
    # a constant column is stored once; equal values may have different texts, such as 1 and 1.0
    short = {
        name: values[:1] if len({json.dumps(value) for value in values}) == 1 else values
        for name, values in columns.items()
    }
    content = json.dumps({"rows": len(rows), "columns": short}).encode()
    return content if _lines(content) == lines else None


def _lines(content: bytes) -> bytes:
    """Return the JSON Lines file whose columns `_columns` returned."""
    record = json.loads(content)
    count, columns = record["rows"], record["columns"]
    full = [values * count if len(values) == 1 else values for values in columns.values()]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*full, strict=True))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _portable(content: bytes, folder: Path) -> bytes:
    """Make paths in the work's folder and in the installation relative."""
    for root in (folder.resolve(), ROOT):
        content = content.replace(f"{root}/".encode(), b"")
    return content
