"""What a run prints: the counts and caveats of this start, and a command that suggests another baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from benchmarks.cli.report import show_result
from benchmarks.execution import RunResult
from benchmarks.systems import CHANGES, SYSTEMS
from leaderboards.records import Planned, ScoreSet
from leaderboards.run_state import RunState

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")
SD15 = SYSTEMS["sd15"]
BASE = {"trained_on": [], "pipeline": SD15.pipeline, "revision": SD15.revision}
TUNED = BASE | {"trained_on": ["clip"], "windows": [{"weights": {"ckpt": 1.0}}]}


@pytest.fixture
def suggested(
    make_run: Callable[..., RunState], capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Writes runs and returns the words of the command that the last one suggests."""

    def write(
        *systems: tuple[str, Mapping[str, Any]], settings: Mapping[str, Any] | None = None, **options: Any
    ) -> list[str]:
        runs = [
            make_run(
                name,
                (BRIGHT, [[0.0]]),
                details=details,
                settings={"number": number} | (settings or {}),
                **options,
            )
            for number, (name, details) in enumerate(systems)
        ]
        result = RunResult(runs[-1], images=1, missing={}, truncated=0, rewards=(), added=1, watermarks=())
        show_result(result, as_json=False)
        (command,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
        return command.split()[1:]

    return write


def baseline(command: list[str]) -> str:
    assert command[:2] == ["tcbench", "leaderboard"]
    return command[command.index("--baseline") + 1]


def test_the_baseline_of_a_tuned_system_is_the_original_one(suggested: Callable[..., list[str]]) -> None:
    others = ("other", {"trained_on": None}), ("sd15", BASE), ("style", BASE | {"append": ", vivid"})
    assert baseline(suggested(*others, ("tuned", TUNED))) == "sd15"


def test_the_original_system_is_the_baseline_of_the_others(suggested: Callable[..., list[str]]) -> None:
    assert baseline(suggested(("tuned", TUNED), ("sd15", BASE))) == "sd15"


def test_a_second_original_system_is_compared_with_the_first(suggested: Callable[..., list[str]]) -> None:
    assert baseline(suggested(("sd15", BASE), ("sdxl", BASE))) == "sd15"


def test_a_tuned_system_alone_needs_a_run_of_its_base(suggested: Callable[..., list[str]]) -> None:
    command = suggested(("tuned", TUNED | {"pipeline": "owner/model", "revision": "main"}), suite="parti")
    assert command[:6] == ["tcbench", "run", "--model", "owner/model@main", "--suite", "parti"]


def test_imported_scores_alone_name_no_baseline(suggested: Callable[..., list[str]]) -> None:
    assert baseline(suggested(("theirs", {}))) == "BASELINE"


def test_counts_and_caveats_are_of_this_start(
    make_run: Callable[..., RunState], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("sd15", (BRIGHT, [[0.0]] * 4))
    run.plan = Planned((0, 2), of=4, seeds=1)
    marks = ("limit 2 of 4",)
    result = RunResult(run, images=2, missing={}, truncated=0, rewards=(), added=0, watermarks=marks)
    assert show_result(result, as_json=True, next_command="next") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["planned"], record["watermarks"]) == (2, ["limit 2 of 4"])
    show_result(result, as_json=False, next_command="next")
    *_, last, compared, _ = capsys.readouterr().out.splitlines()
    assert last.endswith("2 of 2 images [limit 2 of 4]")
    assert compared == "boards compare 4 prompts × 1 image, the largest set that a start has finished"


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_makes_a_system_another_than_its_base(
    suggested: Callable[..., list[str]], change: str
) -> None:
    changed = ("changed", BASE | {change: "changed"})
    assert suggested(changed)[:4] == ["tcbench", "run", "--model", "sd15"]
    assert baseline(suggested(changed, ("sd15", BASE))) == "sd15"


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"base_seed": 0, "steps": 25, "guidance": 7.5}, []),
        (
            {"base_seed": 7, "steps": 30, "guidance": 5.0},
            ["--base-seed", "7", "--steps", "30", "--guidance", "5.0"],
        ),
    ],
)
def test_the_run_of_a_base_has_the_samples_of_the_tuned_run(
    suggested: Callable[..., list[str]], settings: Mapping[str, Any], options: list[str]
) -> None:
    command = suggested(("tuned", TUNED), suite="parti", settings=settings)
    assert command[:6] == ["tcbench", "run", "--model", "sd15", "--suite", "parti"]
    assert command[6:-2] == options
