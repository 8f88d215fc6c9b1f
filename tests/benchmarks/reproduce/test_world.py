"""The comparison on the embedded world: its plan is fair, and all of it works end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.reproduce import tasks, world
from benchmarks.reproduce.results import Results
from tcbench.cells import unfinished_cells
from textcraftor.ledger import Ledger
from textcraftor.validation import TRAINED, Validation

SHARES = {"raft": 0.18}
"""Share of the budget that training takes, where it is not all of it: RAFT spends the rest on sampling."""


def test_headline_methods_have_enough_trials_and_equally_many_seeds() -> None:
    methods = [world.METHODS[name] for name in world.HEADLINE]
    assert all(3 <= len(method.rates) <= world.FULL.trials for method in methods)
    assert {len(world.FULL.seeds_of(method)) for method in methods} == {3}
    assert {"textcraftor", "rl", "grpo", "rewriter", "direct"} <= set(world.HEADLINE)
    assert world.FULL.prompts >= 400
    assert world.FULL.seeds >= 2


def test_cells_need_only_earlier_cells() -> None:
    for scale in (world.FULL, world.QUICK):
        seen: set[str] = set()
        for cell in world.plan_cells(scale):
            assert set(cell.needs) <= seen
            assert cell.name not in seen
            seen.add(cell.name)
    hours = sum(cell.minutes for cell in world.plan_cells(world.FULL)) / 60
    assert hours < 12


def validation(gain: float | None, selection: float | None) -> Validation:
    """A validation whose selection reward has a deviation of 1, so that a fall of 0.2 is accepted."""
    changes: dict[str, list[float | None]] = {TRAINED: [gain, 0, 0], tasks.SELECTION: [selection, -9, 9]}
    return Validation(0, {tasks.SELECTION: [-1.0, 1.0]}, None, 0.0, changes)


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ({1e-5: (0.1, 0.0), 1e-4: (0.5, 0.1)}, 1e-4),
        ({1e-5: (0.1, 0.0), 1e-4: (0.5, -0.1)}, 1e-4),  # its selection reward fell by little
        ({1e-5: (0.1, 0.0), 1e-4: (0.5, -0.3)}, 1e-5),  # its selection reward fell
        ({1e-5: (0.1, -0.4), 1e-4: (0.5, -0.3)}, 1e-4),  # all fell
        ({1e-5: (-0.4, 0.0), 1e-4: (None, 0.0)}, 1e-5),  # no finite score
        ({1e-5: (-0.4, 0.0), 1e-4: (0.5, None)}, 1e-5),
    ],
)
def test_the_chosen_rate_gains_most_without_hurting_the_selection_reward(
    trials: dict[float, tuple[float | None, float | None]], chosen: float, tmp_path: Path
) -> None:
    for rate, (gain, selection) in trials.items():
        result = tasks.TrainingResult({}, [], 1, Ledger(), validation(gain, selection))
        result.write(tmp_path, tasks._trial_name("x", rate))
    assert tasks.chosen_rate(tmp_path, "x", list(trials)) == chosen


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of `tcbench reproduce world-table --quick`."""
    out = tmp_path_factory.mktemp("world-table")
    assert reproduce(out) == 0
    return out


def reproduce(out: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "world-table", "--quick", "--jobs", "2", "--out", str(out), *options])
    return int(ended.value.code or 0)


def test_every_method_is_in_the_report(finished: Path) -> None:
    page = (finished / "page" / "report.md").read_text()
    for title in [method.title for method in world.METHODS.values()] + [
        v.title for v in world.VARIANTS if not v.of
    ]:
        assert title in page or title.startswith("base")
    for heading in ("Main comparison", "Other methods", "Gradients", "Single rewards",
                    "CLIP reward", "Tuned steps", "Optimisation at test time", "Samplers",
                    "Interpolation", "Style mixing", "cost"):  # fmt: skip
        assert re.search(rf"^## .*{heading}", page, re.MULTILINE), heading
    assert "○" in page  # four prompts allow no claim
    assert "▲" not in page.split("## Main comparison")[1]
    findings = (finished / "page" / "findings.md").read_text()
    assert "TextCraftor has better quality than style words by rule | **undecided**" in findings


def test_a_second_start_runs_nothing_and_writes_the_same_bytes(finished: Path) -> None:
    files = {file: file.read_bytes() for file in (finished / "page").rglob("*.*") if file.is_file()}
    records = {file: file.stat().st_mtime_ns for file in (finished / "cells").glob("*.json")}
    assert len(records) == len(world.plan_cells(world.QUICK))
    assert unfinished_cells(world.plan_cells(world.QUICK), finished) == []
    assert reproduce(finished) == 0
    assert {file: file.stat().st_mtime_ns for file in (finished / "cells").glob("*.json")} == records
    assert all(file.read_bytes() == content for file, content in files.items())
    assert reproduce(finished, "--headline", "--docs", str(finished / "headline-page")) == 0
    assert "ReFL" not in (finished / "headline-page" / "report.md").read_text()


def test_the_archives_make_the_same_report_elsewhere(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    assert reproduce(out, "--records", str(finished / "page" / "records")) == 0
    first, again = (
        {f.relative_to(d): f.read_bytes() for f in d.rglob("*.*")} for d in (finished / "page", out / "page")
    )
    assert first == again
    assert not (out / "train").exists()


@pytest.mark.parametrize("name", list(world.METHODS))
def test_a_method_uses_the_compute_that_the_report_states(finished: Path, name: str) -> None:
    """Computed from the ledger of a few updates and the updates of the full plan."""
    method = world.METHODS[name]
    ledger = Results(finished, world.QUICK).training(method, 0).ledger
    settings = world._settings(method, world.FULL)
    samples = settings["optimiser.updates"] * settings.get("optimiser.batch", 8)
    per_sample = ledger.compute / ledger.samples
    if name == "alignprop":  # backpropagates through a random number of the 25 guided steps, 13 on average
        per_sample += 2 * 13 - ledger.unet_backwards / ledger.samples
    if name == "refl":  # predicts at a random one of the 25 guided steps, after 12 on average
        per_sample += 2 * (12 + 1) - ledger.unet_forwards / ledger.samples
    share = per_sample * samples / world.BUDGET
    assert share == pytest.approx(SHARES.get(name, 1.0), abs=0.06)


def test_training_rewards_are_declared_for_every_system(finished: Path) -> None:
    headers = list((finished / "runs").glob("*/run.json"))
    assert headers
    for header in headers:
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
