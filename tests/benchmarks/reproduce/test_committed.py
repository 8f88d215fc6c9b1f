"""The committed pages of the comparison come from the committed records, byte for byte."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.reproduce import world
from benchmarks.reproduce.archives import ARCHIVE, MANIFEST
from benchmarks.reproduce.report import RECORDS
from benchmarks.reproduce.results import Results
from tcbench.cells import cell_keys
from tcbench.files import sha256

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "world-table"
BY_HAND = ("README.md", "blind")
"""What the folder has beside the generated pages."""

SHARES = {"raft": 0.18}
"""Share of the budget that training takes, where it is not all of it: RAFT spends the rest on sampling."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tcbench reproduce world-table` with the committed records."""
    out = tmp_path_factory.mktemp("world-table")
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "world-table", "--out", str(out), "--records", str(PAGES / RECORDS)])
    assert not ended.value.code
    assert not (out / "train").exists()  # nothing was trained
    return out


def test_the_manifest_has_the_archives_hash_and_the_plans_keys() -> None:
    manifest = json.loads((PAGES / RECORDS / MANIFEST).read_bytes())
    assert manifest["sha256"] == sha256(PAGES / RECORDS / ARCHIVE)
    assert manifest["cells"] == cell_keys(world.plan_cells(world.FULL))
    assert (PAGES / RECORDS / ARCHIVE).stat().st_size < 4e6


def test_the_pages_are_those_of_the_records(out: Path) -> None:
    expected, committed = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (out / "page", PAGES)
    )
    assert {file for file in committed if file.parts[0] not in BY_HAND} == expected.keys()
    different = [str(file) for file, content in expected.items() if committed[file] != content]
    assert not different


def test_every_method_and_question_is_in_the_report() -> None:
    page = (PAGES / "report.md").read_text(encoding="utf-8")
    for title in [method.title for method in world.METHODS.values()] + [
        v.title for v in world.VARIANTS if not v.of
    ]:
        assert title in page or title.startswith("base")
    for heading in ("Main comparison", "Other methods", "Gradients", "Single rewards",
                    "CLIP reward", "Tuned steps", "Optimisation at test time", "Samplers",
                    "Interpolation", "Style mixing", "cost"):  # fmt: skip
        assert re.search(rf"^## .*{heading}", page, re.MULTILINE), heading


@pytest.mark.parametrize("name", list(world.METHODS))
def test_a_method_had_the_compute_of_the_budget(out: Path, name: str) -> None:
    results, method = Results(out, world.FULL), world.METHODS[name]
    for seed in world.FULL.seeds_of(method):
        share = results.training(method, seed).ledger.compute / world.BUDGET
        assert share == pytest.approx(SHARES.get(name, 1.0), abs=0.06)


def test_the_readme_shows_the_short_table() -> None:
    report = (PAGES / "report.md").read_text(encoding="utf-8")
    table = report.split("| difference to the base |")[1].split("\n\n")[0]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| difference to the base |{table}\n" in readme
