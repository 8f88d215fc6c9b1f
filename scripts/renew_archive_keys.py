"""Give the archived cells of docs/world-table/records the keys of the current plan.

    python scripts/renew_archive_keys.py

Run it after a change of names in the plan (settings, tasks, options of cells) that leaves the work the same.
Then `tcbench reproduce world-table --records docs/world-table/records` still runs nothing. The archives
themselves do not change. Never run it after a change of the work: those cells have to run again.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.reproduce.archives import MANIFEST, SUFFIX, ArchivedCell
from benchmarks.reproduce.world import FULL, plan_cells
from tcbench.cells import cell_keys
from tcbench.files import sha256

ARCHIVES = Path(__file__).resolve().parents[1] / "docs" / "world-table" / "records"


def _main() -> None:
    keys = cell_keys(plan_cells(FULL))
    names = {path.name.removesuffix(SUFFIX) for path in ARCHIVES.glob(f"*{SUFFIX}")}
    if names != keys.keys():
        raise SystemExit(f"cells and archives differ: {', '.join(sorted(names ^ keys.keys()))}")
    manifest = {name: ArchivedCell(keys[name], sha256(ARCHIVES / f"{name}{SUFFIX}")) for name in sorted(keys)}
    content = json.dumps({name: asdict(cell) for name, cell in manifest.items()}, indent=1)
    (ARCHIVES / MANIFEST).write_text(content + "\n", encoding="utf-8")
    print(ARCHIVES / MANIFEST)


if __name__ == "__main__":
    _main()
