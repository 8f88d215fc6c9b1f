"""Import of score tables: the layouts that are read, and the errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.cli import main
from benchmarks.imports import ScoreTable, import_scores
from benchmarks.suites import prompt_set
from leaderboards.builder import build
from leaderboards.run_state import RunState
from leaderboards.scores import RunScores
from tcbench.errors import FileFormatError
from textcraftor.diffusion.prompts import Prompt

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


def scores(run: RunState) -> dict[str, list[float]]:
    return {scored.score_set.reward: scored.values.tolist() for scored in RunScores.read(run).scored}


def test_table_with_a_row_per_score(write: Write, tmp_path: Path) -> None:
    table = write("other.csv", "prompt,sample,reward,score\na cat,0,aes,5.5\na cat,1,aes,5\na dog,0,aes,\n")
    run = import_scores(ScoreTable(table, "theirs", tmp_path / "runs"))
    assert (run.header.suite[:9], run.header.planned.count) == ("imported_", 4)
    assert scores(run)["aes"][:2] == [5.5, 5.0]
    (scored,) = RunScores.read(run).scored
    assert scored.reasons == {2: "no score in the table"}
    assert "trained_on" not in run.header.details


def test_table_with_a_row_per_image(write: Write, tmp_path: Path) -> None:
    lines = [
        {"prompt": p, "aes": a, "lpips": b, "note": "x"} for p, a, b in (("a cat", 5, 0.2), ("a dog", 6, 0.1))
    ]
    table = write("other.jsonl", "\n".join(map(json.dumps, lines)))
    request = ScoreTable(
        table, "theirs", tmp_path / "runs", rewards=["aes", "lpips"], lower_is_better=["lpips"], trained_on=[]
    )
    run = import_scores(request)
    assert scores(run) == {"aes": [5.0, 6.0], "lpips": [0.2, 0.1]}
    assert [own.higher_is_better for own in run.score_sets] == [True, False]
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    import_scores(request)
    assert before == {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


def test_prompts_of_a_suite_are_matched_by_id_and_text(write: Write, tmp_path: Path) -> None:
    world = prompt_set("world")
    order = [7, 3, 999]
    rows = "".join(f'{n},"{world.prompts[n].text}",1.0\n' for n in order)
    table = write("other.csv", f"prompt_id,prompt,aes\n{rows}")
    run = import_scores(
        ScoreTable(table, "theirs", tmp_path / "runs", ("world", world.prompts), rewards=["aes"])
    )
    assert run.header.suite_sha256 == world.sha256
    assert list(run.header.planned.prompt_ids) == [3, 7, 999]
    assert run.header.watermarks == ("3 of 1000 prompts",)


def test_images_are_recorded(write: Write, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    table = write("other.tsv", "prompt\timage\taes\na cat\tone.png\t5\n")
    run = import_scores(ScoreTable(table, "theirs", tmp_path / "runs", rewards=["aes"]))
    (sample,) = run.samples.values()
    assert run.image_path(sample) == tmp_path / "one.png"
    assert scores(run) == {"aes": [5.0]}


def test_imported_runs_can_be_compared(write: Write, tmp_path: Path) -> None:
    for name, gain in (("old", 0), ("new", 1)):
        rows = "".join(f"prompt {n},{n % 7 + gain}\n" for n in range(120))
        (tmp_path / f"{name}.csv").write_text(f"prompt,aes\n{rows}")
        import_scores(ScoreTable(tmp_path / f"{name}.csv", name, tmp_path / "runs", rewards=["aes"]))
    runs = [RunState(path) for path in sorted((tmp_path / "runs").iterdir())]
    (section,) = build(runs, "old").sections
    cell = section.cells["new", "aes", None]
    assert (cell.claim, cell.exposure) == ("better", "undeclared")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "prompt,aes\na,1\n", "line 2: no columns 'reward' and 'score'; .* --rewards aes"),
        ("t.csv", "prompt,reward,score\n", "has no score"),
        ("t.csv", "prompt,reward,score\na,aes,high\n", "line 2: aes is 'high'; expected a number"),
        ("t.csv", "prompt,reward,score\na,aes,nan\n", "line 2: aes is 'nan'; expected a number"),
        ("t.csv", "prompt,sample,reward,score\na,-1,aes,1\n", "sample is '-1'"),
        ("t.csv", "prompt,reward,score\na,aes,1\na,aes,2\n", "line 3: aes of sample 0 of this prompt occurs"),
        (
            "t.csv",
            "prompt_id,prompt,sample,reward,score\n1,a,0,aes,1\n1,b,1,aes,2\n",
            "line 3: prompt_id '1' has another",
        ),
        ("t.csv", "text,reward,score\na,aes,1\n", "line 2: no 'prompt'; columns: text, reward, score"),
        ("t.csv", "prompt,reward,score\na,aes\n", "line 2: expected 3 cells"),
        ("t.csv", "prompt,image,reward,score\na,gone.png,aes,1\n", "cannot read the image .*gone.png"),
        ("t.jsonl", "[1]\n", "line 1: expected an object"),
        ("t.jsonl", "{\n", "line 1: not JSON"),
        ("t.xlsx", "", "unknown file type '.xlsx'"),
    ],
)
def test_invalid_tables_are_an_error(
    write: Write, tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(FileFormatError, match=message):
        import_scores(ScoreTable(write(name, text), "theirs", tmp_path / "runs"))


def test_prompts_of_another_suite_are_an_error(write: Write, tmp_path: Path) -> None:
    table = write("t.csv", "prompt,reward,score\na unicorn,aes,1\n")
    world = prompt_set("world")
    with pytest.raises(FileFormatError, match="'a unicorn' is not a prompt of world; omit --suite"):
        import_scores(ScoreTable(table, "theirs", tmp_path / "runs", ("world", world.prompts)))


def test_unknown_reward_names_are_an_error(write: Write, tmp_path: Path) -> None:
    table = write("t.csv", "prompt,fid\na cat,1\n")
    request = ScoreTable(table, "theirs", tmp_path / "runs", rewards=["fid"])
    with pytest.raises(
        FileFormatError, match="no reward 'fdi', which was given as lower-is-better; it has fid"
    ):
        import_scores(replace(request, lower_is_better=["fdi"]))
    with pytest.raises(FileFormatError, match="no reward 'FID'; did you mean 'fid'"):
        import_scores(replace(request, trained_on=["FID"]))
    plain, turned = import_scores(request), import_scores(replace(request, lower_is_better=["fid"]))
    assert plain.path != turned.path
    assert not turned.score_sets[0].higher_is_better


def test_samples_are_renumbered_and_repeated_prompts_need_ids(write: Write, tmp_path: Path) -> None:
    table = write("t.csv", "prompt,sample,aes\na cat,42,1\na cat,7,2\n")
    run = import_scores(ScoreTable(table, "theirs", tmp_path / "runs", rewards=["aes"]))
    assert (run.header.planned.seeds, scores(run)) == (2, {"aes": [2.0, 1.0]})
    twice = [Prompt(0, "a cat"), Prompt(1, "a dog"), Prompt(2, "a cat")]
    suite = ("pets", twice)
    table = write("u.csv", "prompt_id,prompt,aes\n0,a cat,1\n2,a cat,3\n")
    run = import_scores(ScoreTable(table, "theirs", tmp_path / "runs", suite, rewards=["aes"]))
    assert list(run.header.planned.prompt_ids) == [0, 2]
    table = write("v.csv", "prompt_id,prompt,aes\nx-1,a cat,1\nx-3,a cat,3\n")
    with pytest.raises(FileFormatError, match="two prompts of the table match prompt 0 of pets"):
        import_scores(ScoreTable(table, "theirs", tmp_path / "runs", suite, rewards=["aes"]))


def test_the_command_prints_the_run(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write("t.csv", "prompt,aes\na cat,1\n")
    command = ["import", str(table), "--system", "theirs", "--rewards", "aes", "--trained-on", "none"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(tmp_path / "runs")])
    assert not ended.value.code
    run = RunState(capsys.readouterr().out.strip())
    assert run.header.details["trained_on"] == []
