"""The run folder: records merge, settings never mix, and each file is read once."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from leaderboards.records import Header, Planned, Sample, Score
from leaderboards.run_state import RunState, find_runs
from tcbench.errors import FileFormatError, MismatchError
from tcbench.files import read_lines
from tests.leaderboards.conftest import BRIGHT

HEADER = Header(
    suite="toy",
    suite_sha256="0" * 64,
    system="micro",
    generation_id="aaaaaaaaaaaa",
    generation={"steps": 2},
    planned=Planned((0, 1, 2), of=5, seeds=1),
    provenance=({"torch": "1"},),
)


def sample(prompt_id: int, index: int = 0, image: str | None = "x.png", reason: str | None = None) -> Sample:
    return Sample(prompt_id, index, "a cat", "a cat, vivid", "animals", 7, image, reason=reason)


@pytest.fixture
def run(tmp_path: Path) -> RunState:
    return RunState.create(tmp_path / "toy-micro-aaaaaaaaaaaa", HEADER)


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("*.jsonl")
    return file


def test_resuming_updates_the_plan_and_keeps_every_environment(run: RunState) -> None:
    wider = replace(HEADER, planned=Planned((0, 1, 2, 3), of=5, seeds=2), provenance=({"torch": "2"},))
    continued = RunState.create(run.path, wider)
    assert continued.header.planned == wider.planned
    assert continued.header.provenance == ({"torch": "1"}, {"torch": "2"})


def test_other_settings_are_an_error(run: RunState) -> None:
    with pytest.raises(MismatchError, match="expected cccccccccccc"):
        RunState.create(run.path, replace(HEADER, generation_id="cccccccccccc"))


def test_each_start_writes_its_own_file(run: RunState) -> None:
    run.append_samples([sample(0)])
    RunState(run.path).append_samples([sample(1)])
    assert len(list((run.path / "samples").glob("*.jsonl"))) == 2
    assert set(RunState(run.path).samples) == {(0, 0), (1, 0)}


def test_success_replaces_failure_and_a_regenerated_image_the_lost_one(run: RunState) -> None:
    run.append_samples([sample(0, image=None, reason="out of memory")])
    run.append_samples([sample(0, image="first.png")])
    run.append_samples([sample(0, image="second.png")])
    run.append_samples([sample(0, image=None, reason="late failure")])
    assert run.samples[0, 0].image == "second.png"


def test_records_of_another_id_are_an_error(run: RunState) -> None:
    run.append_samples([sample(0)])
    file = only_file(run.path / "samples")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id": "cccccccccccc"}) + "\n")
    with pytest.raises(MismatchError, match="cccccccccccc in a folder of aaaaaaaaaaaa"):
        assert RunState(run.path).samples


def test_a_sample_belongs_to_the_last_batch_that_lists_it(run: RunState) -> None:
    run.append_batches([[(0, 0), (1, 0)], [(2, 0)]])
    run.append_batches([[(1, 0)]])
    assert run.batches == [[(0, 0)], [(2, 0)], [(1, 0)]]


def test_incomplete_batch_line_is_removed_before_the_next(run: RunState) -> None:
    run.append_batches([[(0, 0)], [(1, 0)]])
    file = run.path / "batches.jsonl"
    file.write_bytes(file.read_bytes()[:-3])
    resumed = RunState(run.path)
    assert resumed.batches == [[(0, 0)]]
    resumed.append_batches([[(1, 0)]])
    assert resumed.batches == RunState(run.path).batches == [[(0, 0)], [(1, 0)]]


def test_first_score_of_an_image_is_kept_and_replaces_a_failure(run: RunState) -> None:
    run.append_samples([sample(0), sample(1)])
    run.append_scores(
        BRIGHT, [Score(0, 0, "failed", reason="flaky"), Score(1, 0, "abstained", reason="no claims")]
    )
    run.append_scores(BRIGHT, [Score(0, 0, "ok", 0.5), Score(1, 0, "ok", 9.0)])
    run.append_scores(BRIGHT, [Score(0, 0, "ok", 0.7)])
    scores = run.scores(BRIGHT)
    assert scores[0, 0].score == 0.5
    assert scores[1, 0].status == "abstained"
    assert RunState(run.path).scores(BRIGHT) == scores


def test_a_score_counts_for_the_scored_image_only(run: RunState) -> None:
    run.append_samples([replace(sample(0), sha256="a" * 64)])
    run.append_scores(BRIGHT, [Score(0, 0, "ok", 0.5, image_sha256="a" * 64)])
    assert run.scores(BRIGHT)[0, 0].score == 0.5
    run.append_samples([replace(sample(0), sha256="b" * 64)])
    assert run.scores(BRIGHT) == {}
    run.append_scores(BRIGHT, [Score(0, 0, "ok", 0.7, image_sha256="b" * 64)])
    assert run.scores(BRIGHT)[0, 0].score == 0.7


def test_scores_of_another_id_are_an_error(run: RunState) -> None:
    run.append_scores(BRIGHT, [Score(0, 0, "ok", 0.5)])
    file = only_file(run.path / "scores" / BRIGHT.folder)
    file.write_text(file.read_text().replace(BRIGHT.score_id, "dddddddddddd"))
    with pytest.raises(MismatchError):
        RunState(run.path).scores(BRIGHT)


def test_a_score_folder_refuses_another_reward(run: RunState) -> None:
    folder = run.path / "scores" / BRIGHT.folder
    folder.mkdir(parents=True)
    (folder / "reward.json").write_text(json.dumps(asdict(replace(BRIGHT, reward="dark"))))
    with pytest.raises(MismatchError, match="holds dark"):
        run.append_scores(BRIGHT, [Score(0, 0, "ok", 0.5)])


def test_each_file_is_read_once_and_appending_updates_the_state(
    run: RunState, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.append_samples([sample(0), sample(1)])
    run.append_batches([[(0, 0), (1, 0)]])
    run.append_scores(BRIGHT, [Score(0, 0, "ok", 0.5)])
    files: list[Path] = []

    def counted(file: Path) -> list[dict[str, Any]]:
        files.append(file)
        return read_lines(file)

    monkeypatch.setattr("leaderboards.journal.read_lines", counted)
    monkeypatch.setattr("leaderboards.run_state.read_lines", counted)
    loaded = RunState(run.path)
    for number in range(3):
        loaded.append_samples([sample(2, number)])
        loaded.append_batches([[(2, number)]])
        assert set(loaded.samples) == {(0, 0), (1, 0), *((2, n) for n in range(number + 1))}
        assert loaded.batches[-1] == [(2, number)]
    for number in range(3):
        loaded.append_scores(BRIGHT, [Score(2, number, "ok", 0.25)])
        assert loaded.scores(BRIGHT)[2, number].score == 0.25
    assert len(files) == len({*files}) == 3
    assert loaded.scores(BRIGHT) == RunState(run.path).scores(BRIGHT)


def test_find_runs_lists_runs_and_their_parent_once(run: RunState) -> None:
    assert [r.path for r in find_runs([run.path.parent, run.path])] == [run.path]
    with pytest.raises(FileFormatError, match="run folder not found"):
        find_runs([run.path / "nowhere"])
    with pytest.raises(FileFormatError, match="holds no run"):
        find_runs([run.path / "images"])


def test_a_finished_plan_stays_in_force_until_a_wider_one_is_finished(run: RunState) -> None:
    wider = replace(HEADER, planned=Planned((0, 1, 2, 3), of=5, seeds=1), watermarks=("limit 4 of 5",))
    narrower = replace(HEADER, planned=Planned((0,), of=5, seeds=1), watermarks=("limit 1 of 5",))
    run.finish(HEADER)
    for header in (narrower, wider):
        started = RunState.create(run.path, header)
        assert started.plan == header.planned
        assert RunState(run.path).header.planned == HEADER.planned
        assert RunState(run.path).header.watermarks == ()
        assert started.missing_images() == set(header.planned.keys())
    started.finish(wider)
    assert RunState(run.path).header.planned == wider.planned
    RunState.create(run.path, narrower).finish(narrower)
    assert RunState(run.path).header.watermarks == ("limit 4 of 5",)


def test_more_prompts_with_fewer_images_leave_the_finished_plan_in_force(run: RunState) -> None:
    finished = replace(HEADER, planned=Planned((0, 1), of=5, seeds=4))
    RunState.create(run.path, finished).finish(finished)
    other = replace(HEADER, planned=Planned((0, 1, 2, 3), of=5, seeds=1), watermarks=("limit 4 of 5",))
    RunState.create(run.path, other).finish(other)
    assert RunState(run.path).header.planned == finished.planned  # 4 of its 8 images would leave the board
    assert RunState(run.path).header.watermarks == ()


def test_a_complete_run_of_an_earlier_version_counts_as_finished(run: RunState) -> None:
    run.append_samples([sample(number) for number in (0, 1, 2)])
    file = run.path / "run.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    del record["finished"]
    file.write_text(json.dumps(record), encoding="utf-8")
    RunState.create(run.path, replace(HEADER, planned=Planned((0,), of=5, seeds=1)))
    assert RunState(run.path).header.planned == HEADER.planned
