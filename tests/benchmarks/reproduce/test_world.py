"""The comparison on the embedded world: its plan is fair as written, and all of it works end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.reproduce import steps, world
from benchmarks.reproduce.cells import undone
from benchmarks.reproduce.page import Results
from textcraftor.ledger import Ledger
from textcraftor.validation import TRAINED, Validation

TWICE = {"text-unet": 1.0, "rl-long": 2.0, "raft": 0.15}
"""Compute by the budget of methods that are not given all of it, or more: RAFT's rest goes into drawing."""


def test_headline_methods_have_as_many_trials_and_seeds() -> None:
    own = [world.by_name(name) for name in world.HEADLINE]
    assert {len(method.rates) for method in own} == {3}
    assert {len(world.seeds_of(method, world.FULL)) for method in own} == {3}
    assert world.FULL.prompts >= 400
    assert world.FULL.seeds >= 2


def test_cells_name_cells_that_come_before_them() -> None:
    for scale in (world.FULL, world.QUICK):
        seen: set[str] = set()
        for cell in world.cells(scale):
            assert set(cell.needs) <= seen
            assert cell.name not in seen
            seen.add(cell.name)
    hours = sum(cell.minutes for cell in world.cells(world.FULL)) / 60
    assert hours < 12


def validation(gain: float, low: float | None) -> Validation:
    return Validation(0, {}, None, 0.0, {TRAINED: [gain, 0, 0], steps.SELECTION: [0, low, low]})


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ({1e-5: (0.1, 0.0), 1e-4: (0.5, 0.1)}, 1e-4),
        ({1e-5: (0.1, 0.0), 1e-4: (0.5, -0.1)}, 1e-5),  # its selection reward fell
        ({1e-5: (0.1, -0.2), 1e-4: (0.5, -0.1)}, 1e-4),  # all fell
    ],
)
def test_the_chosen_rate_gains_most_without_harm(
    found: dict[float, tuple[float, float]], chosen: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = {
        steps.trial_name("x", rate): steps.Result({}, [], 1, Ledger(), validation(*v))
        for rate, v in found.items()
    }
    monkeypatch.setattr(steps, "result", lambda folder, name: kept[name])
    assert steps.chosen_rate(tmp_path, "x", list(found)) == chosen


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of `tcbench reproduce world-table --quick`."""
    out = tmp_path_factory.mktemp("world-table")
    assert reproduce(out) == 0
    return out


def reproduce(out: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "world-table", "--quick", "--jobs", "2", "--out", str(out), *options])
    return int(ended.value.code or 0)


def test_every_method_is_on_the_page(made: Path) -> None:
    page = (made / "page" / "report.md").read_text()
    for title in [method.title for method in world.METHODS] + [v.title for v in world.VARIANTS if not v.of]:
        assert title in page or title.startswith("as it is")
    for heading in ("Main comparison", "Single rewards", "CLIP constraint", "Train K", "Samplers",
                    "Interpolation", "Style mixing", "cost"):  # fmt: skip
        assert re.search(rf"^## .*{heading}", page, re.MULTILINE), heading
    assert "○" in page  # four prompts allow no claim
    assert "▲" not in page.split("## Main comparison")[1]


def test_the_same_again_does_nothing_and_writes_the_same_bytes(made: Path) -> None:
    files = {file: file.read_bytes() for file in (made / "page").rglob("*.*") if file.is_file()}
    records = {file: file.stat().st_mtime_ns for file in (made / "cells").glob("*.json")}
    assert len(records) == len(world.cells(world.QUICK))
    assert undone(world.cells(world.QUICK), made) == []
    assert reproduce(made) == 0
    assert {file: file.stat().st_mtime_ns for file in (made / "cells").glob("*.json")} == records
    assert all(file.read_bytes() == content for file, content in files.items())
    assert reproduce(made, "--headline", "--docs", str(made / "headline-page")) == 0
    assert "ReFL" not in (made / "headline-page" / "report.md").read_text()


def test_the_kept_records_make_the_page_again(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    assert reproduce(out, "--records", str(made / "page" / "records")) == 0
    first, again = (
        {f.relative_to(d): f.read_bytes() for f in d.rglob("*.*")} for d in (made / "page", out / "page")
    )
    assert first == again
    assert not (out / "train").exists()


@pytest.mark.parametrize("name", [method.name for method in world.METHODS])
def test_a_method_is_given_the_compute_that_the_page_says(made: Path, name: str) -> None:
    """By its ledger of a few updates, and the updates of the full table."""
    method = world.by_name(name)
    ledger = Results(made, world.QUICK).training(method, 0).ledger
    samples = method.settings["updates"] * method.settings.get("batch", 8)
    of_a_sample = ledger.compute / ledger.samples
    if name == "alignprop":  # draws for each update how many of 25 guided steps go back, 13 at the mean
        of_a_sample += 2 * 13 - ledger.unet_backwards / ledger.samples
    if name == "refl":  # draws which of the last 5 guided steps predicts, after 20 and 2 more at the mean
        of_a_sample += 2 * (20 + 2 + 1) - (ledger.unet_forwards + ledger.unet_saved) / ledger.samples
    share = of_a_sample * samples / world.BUDGET
    assert share == pytest.approx(TWICE.get(name, 1.0), abs=0.06)


def test_what_is_trained_on_is_declared_of_every_system(made: Path) -> None:
    for header in (made / "runs").glob("*/run.json"):
        details = json.loads(header.read_text())["details"]
        assert details["trained_on"] is not None, header


def test_there_is_one_comparison(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "word-table", "--out", str(tmp_path / "x")])
    assert ended.value.code == 2
    assert "world-table" in capsys.readouterr().err
    assert reproduce(tmp_path / "x", "--dry-run") == 0
    assert "core-hours" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()
