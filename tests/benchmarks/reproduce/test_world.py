"""The comparison on the embedded world: its plan is fair, and all of it works end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.reproduce import tasks, world
from tcbench.cells import cell_keys, unfinished_cells
from textcraftor.diffusion.models import MODELS
from textcraftor.ledger import Ledger
from textcraftor.validation import TRAINED, Validation


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
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tcbench reproduce world-table --quick --headline`."""
    out = tmp_path_factory.mktemp("world-table")
    assert reproduce(out, "--headline") == 0
    return out


def reproduce(out: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "world-table", "--quick", "--jobs", "2", "--out", str(out), *options])
    return int(ended.value.code or 0)


def test_four_prompts_allow_no_claim(finished: Path) -> None:
    page = (finished / "page" / "report.md").read_text()
    assert "○" in page
    assert "▲" not in page.split("## Main comparison")[1]
    findings = (finished / "page" / "findings.md").read_text()
    assert "TextCraftor has better quality than style words by rule | **undecided**" in findings


def test_a_second_start_runs_nothing_and_writes_the_same_bytes(finished: Path) -> None:
    cells = world.plan_cells(world.QUICK, headline_only=True)
    files = {file: file.read_bytes() for file in (finished / "page").rglob("*.*") if file.is_file()}
    records = {file: file.stat().st_mtime_ns for file in (finished / "cells").glob("*.json")}
    assert len(records) == len(cells)
    assert unfinished_cells(cells, finished) == []
    assert reproduce(finished, "--headline") == 0
    assert {file: file.stat().st_mtime_ns for file in (finished / "cells").glob("*.json")} == records
    assert all(file.read_bytes() == content for file, content in files.items())


def test_the_archives_make_the_same_report_elsewhere(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    assert reproduce(out, "--headline", "--records", str(finished / "page" / "records")) == 0
    first, again = (
        {f.relative_to(d): f.read_bytes() for f in d.rglob("*.*")} for d in (finished / "page", out / "page")
    )
    assert first == again
    assert not (out / "train").exists()


def test_training_rewards_are_declared_for_every_system(finished: Path) -> None:
    headers = list((finished / "runs").glob("*/run.json"))
    assert headers
    for header in headers:
        details = json.loads(header.read_text())["details"]
        assert details["trained_on"] is not None, header


@pytest.mark.slow
def test_all_cells_run(tmp_path: Path) -> None:
    """The committed pages show what they give."""
    assert reproduce(tmp_path / "all") == 0
    assert unfinished_cells(world.plan_cells(world.QUICK), tmp_path / "all") == []
    assert reproduce(tmp_path / "all", "--headline", "--docs", str(tmp_path / "headline")) == 0
    assert "ReFL" in (tmp_path / "all" / "page" / "report.md").read_text()
    assert "ReFL" not in (tmp_path / "headline" / "report.md").read_text()


def test_a_cell_has_another_key_with_other_default_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cell_keys(world.plan_cells(world.FULL))
    model = MODELS["micro"]
    other = replace(model, training={**model.training, "optimiser.ema": 0.5})
    monkeypatch.setattr(world, "MODELS", {"micro": other})
    after = cell_keys(world.plan_cells(world.FULL))
    assert before["train-textcraftor-0"] != after["train-textcraftor-0"]
    assert before["run-micro"] == after["run-micro"]


def test_there_is_one_comparison(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "word-table", "--out", str(tmp_path / "x")])
    assert ended.value.code == 2
    assert "world-table" in capsys.readouterr().err
    assert reproduce(tmp_path / "x", "--dry-run") == 0
    assert "core-hours" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()
