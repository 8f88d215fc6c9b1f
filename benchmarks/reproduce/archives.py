"""Archives of finished cells: small enough for a repository, and enough to write the tables again.

``manifest.json`` lists the key of each archived cell and the sha256 of its archive. `CellArchives.restore`
puts cells back on another machine; they are not run again, unless a cell that has to run needs more of one
than its archive holds. The manifest's key decides; an archive's own ``cells/<name>.json`` may hold an
older one, so that its bytes never change.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tcbench.cells import CELLS, CellRecord, WorkCell, cell_keys
from tcbench.errors import FileFormatError, MismatchError, MissingFiles
from tcbench.files import sha256, write_atomically
from tcbench.launch import ROOT

SUFFIX = ".tar.xz"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class _ArchivedCell:
    """Entry of the manifest."""

    key: str
    """Key of the cell that the archive stands for (`tcbench.cells.cell_keys`)."""
    sha256: str
    """SHA-256 of the archive, in hex."""


@dataclass(frozen=True)
class CellArchives:
    """A folder of archives with its manifest."""

    folder: Path

    def add(self, cells: Sequence[WorkCell], folder: Path) -> None:
        """Archive each finished cell of the work in ``folder`` and write the manifest.

        An archive of the same key is left as it is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = _read_manifest(self.folder)
        for name, key in cell_keys(cells).items():
            record, archive = CellRecord.read(folder, name, key), self.folder / f"{name}{SUFFIX}"
            if record is None or (archive.is_file() and name in manifest and manifest[name].key == key):
                continue
            write_atomically(archive, _packed(folder, name, record))
            manifest[name] = _ArchivedCell(key, sha256(archive))
        content = json.dumps({name: asdict(manifest[name]) for name in sorted(manifest)}, indent=1) + "\n"
        write_atomically(self.folder / MANIFEST, content.encode())

    def restorable(self, cells: Sequence[WorkCell], folder: Path) -> dict[str, str]:
        """Return names and keys of the cells that are archived as planned and not finished in ``folder``.

        Raises:
            MissingFiles: If none of the cells is archived.
        """
        manifest = _read_manifest(self.folder)
        keys = cell_keys(cells)
        if not manifest.keys() & keys.keys():
            raise MissingFiles(
                f"{self.folder} has no archives of this comparison: give the folder beside its report.md "
                f"that has a {MANIFEST}"
            )
        return {
            name: key
            for name, key in keys.items()
            if name in manifest and manifest[name].key == key and CellRecord.read(folder, name, key) is None
        }

    def restore(self, keys: Mapping[str, str], folder: Path) -> None:
        """Unpack archives of `restorable` into ``folder`` and record the cells as finished.

        Raises:
            MismatchError: If an archive is missing or differs from the manifest.
        """
        manifest = _read_manifest(self.folder)
        for name, key in keys.items():
            archive = self.folder / f"{name}{SUFFIX}"
            if not archive.is_file() or sha256(archive) != manifest[name].sha256:
                raise MismatchError(
                    f"{archive} is missing or differs from its sha256 in {MANIFEST}: restore it, or remove "
                    "its entry there to run the cell again"
                )
            with tarfile.open(archive, "r:xz") as members:
                members.extractall(folder, filter="data")
            record = CellRecord.read(folder, name)
            assert record is not None
            replace(record, key=key, restored=True).write(folder, name)


def _read_manifest(archives: Path) -> dict[str, _ArchivedCell]:
    """Return the manifest of a folder of archives by cell name; empty without one.

    Raises:
        FileFormatError: If the manifest is damaged.
    """
    path = archives / MANIFEST
    if not path.is_file():
        return {}
    try:
        return {name: _ArchivedCell(**entry) for name, entry in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is not a manifest of archived cells ({error}): restore it") from error


def _packed(folder: Path, name: str, record: CellRecord) -> bytes:
    """Return a cell's archive. The same cell gives the same bytes: no times, owners or absolute paths."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as members:
        for path in record.keeps:
            content = (folder / path).read_bytes()
            _add(members, path, _portable(content, folder) if path.endswith(".json") else content)
        _add(members, f"{CELLS}/{name}.json", replace(record, restored=False).content)
    return out.getvalue()


def _portable(content: bytes, folder: Path) -> bytes:
    """Make paths in the work's folder and in the installation relative."""
    for root in (folder.resolve(), ROOT):
        content = content.replace(f"{root}/".encode(), b"")
    return content


def _add(members: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size = len(content)
    members.addfile(member, io.BytesIO(content))
