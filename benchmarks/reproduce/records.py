"""What is kept of cells, as an archive each: small enough for a repository, and enough to make tables again.

On another machine, or in another year, `restore` puts them back. What they hold is not done again, unless a
cell that is to be done needs more of one than was kept.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import textcraftor
from benchmarks.reproduce.cells import RECORDS, Cell, Record, keys, record_of
from tcbench.files import write_atomically

KIND = ".tar.xz"
INSTALLED = Path(textcraftor.__file__).resolve().parents[1]


def keep(cells: Sequence[Cell], folder: Path, kept: Path) -> None:
    """An archive in ``kept`` of each cell that is done. One that is there of the very same stays as it is."""
    kept.mkdir(parents=True, exist_ok=True)
    for name, key in keys(cells).items():
        record, archive = record_of(folder, name, key), kept / f"{name}{KIND}"
        if record is not None and _key(archive, name) != key:
            write_atomically(archive, _packed(folder, name, record))


def known(cells: Sequence[Cell], folder: Path, kept: Path) -> dict[str, str]:
    """Names and keys of cells that are kept as they are asked, and not done here.

    Raises ValueError where nothing is kept, or an archive cannot be read.
    """
    asked = keys(cells)
    if not any((kept / f"{name}{KIND}").is_file() for name in asked):
        raise ValueError(f"{kept} holds no records of this comparison: give the folder beside its page")
    return {
        name: key
        for name, key in asked.items()
        if record_of(folder, name, key) is None and _key(kept / f"{name}{KIND}", name) == key
    }


def restore(found: Mapping[str, str], folder: Path, kept: Path) -> None:
    """Put back what is kept of those that are `known`."""
    for name, key in found.items():
        with tarfile.open(kept / f"{name}{KIND}", "r:xz") as members:
            members.extractall(folder, filter="data")
        record = record_of(folder, name, key)
        assert record is not None
        write_atomically(folder / RECORDS / f"{name}.json", replace(record, restored=True).text())


def _packed(folder: Path, name: str, record: Record) -> bytes:
    """The same cell gives the same bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as members:
        for path in record.keeps:
            content = (folder / path).read_bytes()
            _add(members, path, _portable(content, folder) if path.endswith(".json") else content)
        _add(members, f"{RECORDS}/{name}.json", replace(record, restored=False).text())
    return out.getvalue()


def _portable(content: bytes, folder: Path) -> bytes:
    """Without what is of one machine alone: places in the folder and in the installation become relative."""
    for place in (folder.resolve(), INSTALLED):
        content = content.replace(f"{place}/".encode(), b"")
    return content


def _add(members: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size = len(content)
    members.addfile(member, io.BytesIO(content))


def _key(archive: Path, name: str) -> str | None:
    """What the cell in an archive was asked; None without one."""
    if not archive.is_file():
        return None
    try:
        with tarfile.open(archive, "r:xz") as members:
            file = members.extractfile(f"{RECORDS}/{name}.json")
            assert file is not None
            return Record.read(file.read()).key
    except (tarfile.TarError, EOFError, KeyError, OSError) as error:
        raise ValueError(f"{archive} cannot be read ({error}): remove it") from error
