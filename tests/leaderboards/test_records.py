"""The run folder: appended lines survive crashes, merge to one truth and never mix settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from leaderboards.records import (
    Header,
    Planned,
    RunFolder,
    Sample,
    Score,
    ScoreSet,
    find_runs,
    folder_name,
    short_id,
)
from tcbench.errors import FileFormatError, MismatchError

HEADER = Header(
    suite="toy",
    suite_sha256="0" * 64,
    system="micro",
    generation_id="aaaaaaaaaaaa",
    generation={"steps": 2},
    planned=Planned((0, 1, 2), of=5, seeds=1),
    provenance=({"torch": "1"},),
)
BRIGHT = ScoreSet("bright", "bbbbbbbbbbbb", higher_is_better=True, role="trainable", family="toy")


def sample(prompt_id: int, index: int = 0, image: str | None = "x.png", reason: str | None = None) -> Sample:
    return Sample(prompt_id, index, "a cat", "a cat, vivid", "animals", 7, image, reason=reason)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "toy-micro-aaaaaaaaaaaa", HEADER)


def append(run: RunFolder, *records: Sample) -> None:
    with run.sample_appender() as appender:
        appender.append(records)


def append_scores(run: RunFolder, *scores: Score) -> None:
    with run.score_appender(BRIGHT) as appender:
        appender.append(scores)


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("*.jsonl")
    return file


def test_short_id_depends_on_content_alone() -> None:
    assert short_id({"a": 1, "b": 2}) == short_id({"b": 2, "a": 1}) != short_id({"a": 1, "b": 3})
    assert len(short_id({})) == 12


def test_folder_name_is_safe() -> None:
    assert folder_name("parti", "org/model: v2", "abc") == "parti-org_model_v2-abc"


def test_header_round_trip(run: RunFolder) -> None:
    assert RunFolder(run.path).header == HEADER
    assert HEADER.planned.count == 3
    assert (2, 0) in HEADER.planned
    assert (3, 0) not in HEADER.planned
    assert (2, 1) not in HEADER.planned


def test_continuing_updates_the_plan_and_keeps_every_environment(run: RunFolder) -> None:
    wider = replace(HEADER, planned=Planned((0, 1, 2, 3), of=5, seeds=2), provenance=({"torch": "2"},))
    continued = RunFolder.create(run.path, wider)
    assert continued.header.planned == wider.planned
    assert continued.header.provenance == ({"torch": "1"}, {"torch": "2"})


def test_other_settings_are_refused(run: RunFolder) -> None:
    with pytest.raises(MismatchError, match="asked for cccccccccccc"):
        RunFolder.create(run.path, replace(HEADER, generation_id="cccccccccccc"))


def test_every_process_start_writes_a_file_of_its_own(run: RunFolder) -> None:
    append(run, sample(0))
    append(run, sample(1))
    assert len(list((run.path / "samples").glob("*.jsonl"))) == 2
    assert set(run.samples()) == {(0, 0), (1, 0)}


def test_a_success_replaces_a_failure_and_an_image_made_anew_the_one_that_was_gone(run: RunFolder) -> None:
    append(run, sample(0, image=None, reason="out of memory"))
    append(run, sample(0, image="first.png"))
    append(run, sample(0, image="second.png"))
    append(run, sample(0, image=None, reason="late failure"))
    assert run.samples()[0, 0].image == "second.png"


def test_records_of_another_id_are_refused(run: RunFolder) -> None:
    append(run, sample(0))
    file = only_file(run.path / "samples")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id": "cccccccccccc"}) + "\n")
    with pytest.raises(MismatchError, match="cccccccccccc in a folder of aaaaaaaaaaaa"):
        run.samples()


def test_batches_are_appended_and_the_last_listing_counts(run: RunFolder) -> None:
    run.append_batches([[(0, 0), (1, 0)], [(2, 0)]])
    run.append_batches([[(1, 0)]])
    assert run.batches() == [[(0, 0)], [(2, 0)], [(1, 0)]]


def test_a_torn_batch_line_is_cut_before_the_next(run: RunFolder) -> None:
    run.append_batches([[(0, 0)], [(1, 0)]])
    file = run.path / "batches.jsonl"
    file.write_bytes(file.read_bytes()[:-3])
    assert run.batches() == [[(0, 0)]]
    run.append_batches([[(1, 0)]])
    assert run.batches() == [[(0, 0)], [(1, 0)]]


def test_the_first_score_of_an_image_stands_and_replaces_a_failure(run: RunFolder) -> None:
    append(run, sample(0), sample(1))
    append_scores(run, Score(0, 0, "failed", reason="flaky"), Score(1, 0, "abstained", reason="no claims"))
    append_scores(run, Score(0, 0, "ok", 0.5), Score(1, 0, "ok", 9.0))
    append_scores(run, Score(0, 0, "ok", 0.7))
    scores = run.scores(BRIGHT)
    assert scores[0, 0].score == 0.5
    assert scores[1, 0].status == "abstained"


def test_a_score_is_of_the_image_that_was_scored(run: RunFolder) -> None:
    append(run, replace(sample(0), sha256="a" * 64))
    append_scores(run, Score(0, 0, "ok", 0.5, image_sha256="a" * 64))
    assert run.scores(BRIGHT)[0, 0].score == 0.5
    append(run, replace(sample(0), sha256="b" * 64))
    assert run.scores(BRIGHT) == {}
    append_scores(run, Score(0, 0, "ok", 0.7, image_sha256="b" * 64))
    assert run.scores(BRIGHT)[0, 0].score == 0.7


def test_a_score_folder_refuses_another_score_id(run: RunFolder) -> None:
    append_scores(run, Score(0, 0, "ok", 0.5))
    file = only_file(run.path / "scores" / BRIGHT.folder)
    file.write_text(file.read_text().replace(BRIGHT.score_id, "dddddddddddd"))
    with pytest.raises(MismatchError):
        run.scores(BRIGHT)


def test_find_runs_takes_runs_and_their_parent_once(run: RunFolder) -> None:
    assert [r.path for r in find_runs([run.path.parent, run.path])] == [run.path]
    with pytest.raises(FileFormatError, match="no run folder at"):
        find_runs([run.path / "nowhere"])
    with pytest.raises(FileFormatError, match="holds no run"):
        find_runs([run.path / "images"])
