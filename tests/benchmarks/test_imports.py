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
from tcbench.errors import FileFormatError, TcbenchError, UnknownName
from textcraftor.diffusion.prompts import Prompt

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


def only(table: ScoreTable) -> RunState:
    """Import a table of one system."""
    (run,) = import_scores(table)
    return run


def scores(run: RunState) -> dict[str, list[float]]:
    return {scored.score_set.reward: scored.values.tolist() for scored in RunScores.read(run).scored}


def test_table_with_a_row_per_score(write: Write, tmp_path: Path) -> None:
    table = write("other.csv", "prompt,sample,reward,score\na cat,0,aes,5.5\na cat,1,aes,5\na dog,0,aes,\n")
    run = only(ScoreTable(table, "theirs", tmp_path / "runs"))
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
    (run,) = import_scores(request)
    assert scores(run) == {"aes": [5.0, 6.0], "lpips": [0.2, 0.1]}
    assert [own.higher_is_better for own in run.score_sets] == [True, False]
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    only(request)
    assert before == {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


def test_prompts_of_a_suite_are_matched_by_id_and_text(write: Write, tmp_path: Path) -> None:
    world = prompt_set("world")
    order = [7, 3, 999]
    rows = "".join(f'{n},"{world.prompts[n].text}",1.0\n' for n in order)
    table = write("other.csv", f"prompt_id,prompt,aes\n{rows}")
    (run,) = import_scores(
        ScoreTable(table, "theirs", tmp_path / "runs", ("world", world.prompts), rewards=["aes"])
    )
    assert run.header.suite_sha256 == world.sha256
    assert list(run.header.planned.prompt_ids) == [3, 7, 999]
    assert run.header.watermarks == ("3 of 1000 prompts",)


def test_images_are_recorded(write: Write, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    table = write("other.tsv", "prompt\timage\taes\na cat\tone.png\t5\n")
    run = only(ScoreTable(table, "theirs", tmp_path / "runs", rewards=["aes"]))
    (sample,) = run.samples.values()
    assert run.image_path(sample) == tmp_path / "one.png"
    assert scores(run) == {"aes": [5.0]}


def test_imported_runs_can_be_compared(write: Write, tmp_path: Path) -> None:
    for name, gain in (("old", 0), ("new", 1)):
        rows = "".join(f"prompt {n},{n % 7 + gain}\n" for n in range(120))
        (tmp_path / f"{name}.csv").write_text(f"prompt,aes\n{rows}")
        only(ScoreTable(tmp_path / f"{name}.csv", name, tmp_path / "runs", rewards=["aes"]))
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
        (
            "t.csv",
            "prompt,reward,score\na,aes,1\na,aes,2\n",
            "line 3: aes of sample 0 of this prompt is already given in line 2; number",
        ),
        (
            "t.csv",
            "prompt_id,prompt,sample,reward,score\n1,a,0,aes,1\n1,b,1,aes,2\n",
            "line 3: prompt_id '1' has a different prompt in line 2; each id must belong to one prompt",
        ),
        ("t.csv", "name,reward,score\na,aes,1\n", "line 2: no prompt column; columns: name, reward, score"),
        ("t.csv", "prompt,reward,score\na,aes\n", "line 2: expected 3 cells"),
        ("t.csv", "prompt,image,reward,score\na,gone.png,aes,1\n", "cannot read the image .*gone.png"),
        ("t.jsonl", "[1]\n", "line 1: expected text or an object"),
        ("t.jsonl", "{\n", "line 1: not JSON"),
        ("t.xlsx", "", "unknown file type '.xlsx'"),
    ],
)
def test_invalid_tables_are_an_error(
    write: Write, tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(FileFormatError, match=message):
        only(ScoreTable(write(name, text), "theirs", tmp_path / "runs"))


def test_prompts_of_another_suite_are_an_error(write: Write, tmp_path: Path) -> None:
    table = write("t.csv", "prompt,reward,score\na unicorn,aes,1\n")
    world = prompt_set("world")
    with pytest.raises(FileFormatError, match="'a unicorn' is not a prompt of world; omit --suite"):
        only(ScoreTable(table, "theirs", tmp_path / "runs", ("world", world.prompts)))


def test_unknown_reward_names_are_an_error(write: Write, tmp_path: Path) -> None:
    table = write("t.csv", "prompt,fid\na cat,1\n")
    request = ScoreTable(table, "theirs", tmp_path / "runs", rewards=["fid"])
    with pytest.raises(
        FileFormatError, match="no reward 'fdi', which was given as lower-is-better; it has fid"
    ):
        only(replace(request, lower_is_better=["fdi"]))
    for name, match in (("FID", "fid"), ("World_Clip", "world-clip")):
        with pytest.raises(UnknownName, match=f"unknown training reward '{name}'; did you mean {match}"):
            only(replace(request, trained_on=[name]))
    known = ["fid", "pickscore", f"custom:bright@{'a' * 64}"]
    details = only(replace(request, trained_on=known)).header.details
    assert (details["trained_on"], details["trained_on_unknown"]) == (known, [])
    plain, turned = only(request), only(replace(request, lower_is_better=["fid"]))
    assert plain.path != turned.path
    assert not turned.score_sets[0].higher_is_better


def test_samples_are_renumbered_and_repeated_prompts_need_ids(write: Write, tmp_path: Path) -> None:
    table = write("t.csv", "prompt,sample,aes\na cat,42,1\na cat,7,2\n")
    run = only(ScoreTable(table, "theirs", tmp_path / "runs", rewards=["aes"]))
    assert (run.header.planned.seeds, scores(run)) == (2, {"aes": [2.0, 1.0]})
    twice = [Prompt(0, "a cat"), Prompt(1, "a dog"), Prompt(2, "a cat")]
    suite = ("pets", twice)
    table = write("u.csv", "prompt_id,prompt,aes\n0,a cat,1\n2,a cat,3\n")
    run = only(ScoreTable(table, "theirs", tmp_path / "runs", suite, rewards=["aes"]))
    assert list(run.header.planned.prompt_ids) == [0, 2]
    table = write("v.csv", "prompt_id,prompt,aes\nx-1,a cat,1\nx-3,a cat,3\n")
    with pytest.raises(FileFormatError, match="two prompts of the table match prompt 0 of pets"):
        only(ScoreTable(table, "theirs", tmp_path / "runs", suite, rewards=["aes"]))


def test_the_command_prints_the_run(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write("t.csv", "prompt,aes\na cat,1\n")
    command = ["import", str(table), "--system", "theirs", "--rewards", "aes", "--trained-on", "none"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(tmp_path / "runs")])
    assert not ended.value.code
    run = RunState(capsys.readouterr().out.strip())
    assert run.header.details["trained_on"] == []


def test_parti_with_a_score_column_is_read_as_prompt_files_are(write: Write, tmp_path: Path) -> None:
    prompts = ['"G I G G L E" painted on a wall', "a cat", 'a sign that says "STOP"']
    raw = "".join(f"{text}\tArts\t{n}.5\n" for n, text in enumerate(prompts))
    table = write("PartiPrompts.tsv", f"Prompt\tCategory\tHPS\n{raw}")
    run = only(ScoreTable(table, "theirs", tmp_path / "runs", rewards=["HPS"]))
    assert [sample.prompt for sample in run.samples.values()] == prompts
    assert {sample.category for sample in run.samples.values()} == {"Arts"}
    assert scores(run) == {"HPS": [0.5, 1.5, 2.5]}


def test_a_column_of_systems_makes_one_run_a_system(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{p},{m},{n}\n" for m in ("old", "new") for n, p in enumerate(("a cat", "a dog")))
    table = write("t.csv", f"Prompt,model_name,aes\n{rows}a bird,new,1\n")
    with pytest.raises(FileFormatError, match="'model_name' names systems, give --system-column"):
        only(ScoreTable(table, "both", tmp_path / "runs", rewards=["aes"]))
    options = ["--system-column", "model_name", "--rewards", "aes", "--out", str(tmp_path / "runs")]
    with pytest.raises(SystemExit):
        main(["import", str(table), *options])
    runs = [RunState(path) for path in capsys.readouterr().out.split()]
    # equal scores, and a prompt that one of them lacks: still two systems of one suite
    assert [run.header.system for run in runs] == ["old", "new"]
    assert [run.header.watermarks for run in runs] == [("2 of 3 prompts",), ()]
    (section,) = build(runs, "old").sections
    assert {entry.label for entry in section.entries} == {"old", "new"}


def test_names_of_rewards_count_for_all_systems_of_a_table(write: Write, tmp_path: Path) -> None:
    table = write("t.csv", "prompt,model,reward,score\na cat,old,fid,1\na cat,old,aes,1\na cat,new,aes,2\n")
    request = ScoreTable(
        table, "", tmp_path, system_column="model", lower_is_better=["fid"], trained_on=["fid"]
    )
    old, new = import_scores(request)
    assert [score_set.higher_is_better for score_set in old.score_sets if score_set.reward == "fid"] == [
        False
    ]
    assert [run.header.details["trained_on"] for run in (old, new)] == [["fid"], ["fid"]]
    assert [run.header.details["trained_on_unknown"] for run in (old, new)] == [[], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either the name of the table's system .* or the column"),
        ({"system": "a", "system_column": "model"}, "give either the name of the table's system"),
        ({"system_column": "modle"}, "line 2: unknown column 'modle'; did you mean model"),
    ],
)
def test_a_table_needs_its_systems(
    write: Write, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    table = write("t.csv", "prompt,model,aes\na cat,old,1\n")
    with pytest.raises(TcbenchError, match=message):
        import_scores(ScoreTable(table, **{"system": ""} | options, out=tmp_path, rewards=["aes"]))


def test_systems_with_equal_tables_can_be_compared(write: Write, tmp_path: Path) -> None:
    table = write("t.csv", "prompt,aes\na cat,1\na dog,2\n")
    for name in ("old", "new"):
        only(ScoreTable(table, name, tmp_path / "runs", rewards=["aes"]))
    (section,) = build(tmp_path / "runs", "old").sections
    assert section.cells["new", "aes", None].mean == section.cells["old", "aes", None].mean


def test_a_comparison_of_imported_scores_shows_no_paths(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for name, gain in (("old", 0), ("new", 1)):
        table = write(
            f"{name}.csv", "prompt,aes\n" + "".join(f"prompt {n},{n + gain * n}\n" for n in range(4))
        )
        paths.append(str(only(ScoreTable(table, name, tmp_path / "runs", rewards=["aes"])).path))
    with pytest.raises(SystemExit):
        main(["compare", *paths])
    shown = capsys.readouterr().out
    assert "'prompt 3'  no image" in shown
    assert "not in" not in shown


def test_samples_that_run_on_from_prompt_to_prompt_are_counted_within_each(
    write: Write, tmp_path: Path
) -> None:
    rows = "".join(f"prompt {n // 2},{n},{n}\n" for n in range(6))
    table = write("t.csv", f"prompt,sample,aes\n{rows}")
    run = only(ScoreTable(table, "theirs", tmp_path / "runs", rewards=["aes"]))
    assert (run.header.planned.count, run.header.planned.seeds) == (6, 2)
    assert set(run.samples) == set(run.header.planned.keys())
