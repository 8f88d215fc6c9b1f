"""Building a board from run folders: pairing, sections, labels, coverage, order, gaps and claims."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leaderboards.board import Section
from leaderboards.builder import build
from leaderboards.records import Planned, Score
from leaderboards.run_state import RunState
from tcbench.errors import MismatchError, UnknownName
from tests.leaderboards.conftest import BLUR, BRIGHT

MakeRun = Callable[..., RunState]


def rows(values: Iterable[float | None]) -> list[list[float | None]]:
    """One image per prompt."""
    return [[None if value is None else float(value)] for value in values]


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def only_section(runs: list[RunState], baseline: str = "base") -> Section:
    (section,) = build(runs, baseline).sections
    return section


def test_every_prompt_has_the_same_weight(make_run: MakeRun) -> None:
    run = make_run("base", (BRIGHT, [[1.0, None, None], [4.0, 5.0, 6.0]]))
    cell = only_section([run]).cells["base", "bright", None]
    assert cell.mean.value == 3.0
    assert (cell.mean.n, cell.samples) == (2, 4)
    assert cell.comparison is None


def test_differences_are_paired_by_prompt_and_sample(make_run: MakeRun) -> None:
    base = make_run("base", (BRIGHT, [[1.0, 100.0], [3.0, 3.0], [5.0, 5.0]]))
    new = make_run("new", (BRIGHT, [[2.0, None], [None, None], [5.5, 6.5]]))
    compared = only_section([base, new]).cells["new", "bright", None].comparison
    assert compared is not None
    # Only the first image of prompt 0 can be paired, and none of prompt 1.
    assert compared.difference.n == 2
    assert compared.difference.value == 1.0


def test_clear_difference_on_enough_prompts_is_claimed(make_run: MakeRun) -> None:
    level = noise(120, 0)
    base = make_run("base", (BRIGHT, rows(level)), (BLUR, rows(level)))
    new = make_run("new", (BRIGHT, rows(level + 1)), (BLUR, rows(level + 1 + 0.1 * noise(120, 1))))
    cells = only_section([base, new]).cells
    assert cells["new", "bright", None].claim == "better"
    assert cells["new", "blur", None].claim == "worse"
    assert cells["base", "bright", None].claim is None


def test_noise_is_undecided_and_few_prompts_make_no_claim(make_run: MakeRun) -> None:
    base = make_run("base", (BRIGHT, rows(noise(120, 0))))
    new = make_run("new", (BRIGHT, rows(noise(120, 1))))
    assert only_section([base, new]).cells["new", "bright", None].claim == "undecided"
    few = make_run("few", (BRIGHT, rows(noise(99, 0) + 5)))
    assert only_section([base, few]).cells["few", "bright", None].claim == "too few prompts"


def test_p_is_adjusted_over_all_comparisons(make_run: MakeRun) -> None:
    base = make_run("base", (BRIGHT, rows(noise(120, 0))), categories=("a", "b"))
    others = [make_run(f"new{i}", (BRIGHT, rows(noise(120, i))), categories=("a", "b")) for i in (1, 2, 3)]
    cells = only_section([base, *others]).cells
    headline = [cells[f"new{i}", "bright", None] for i in (1, 2, 3)]
    smallest = min(headline, key=lambda cell: cell.p_adjusted)
    assert smallest.comparison is not None
    assert smallest.p_adjusted == pytest.approx(min(1.0, 3 * smallest.comparison.p))
    assert cells["new1", "bright", "a"].claim is None


def test_categories_have_their_own_cells_in_prompt_order(make_run: MakeRun) -> None:
    run = make_run("base", (BRIGHT, rows([1, 2, 3, 6])), categories=("photo", "anime"))
    section = only_section([run])
    assert section.categories == ("photo", "anime")
    assert section.cells["base", "bright", "photo"].mean.value == 2.0
    assert section.cells["base", "bright", "anime"].mean.value == 4.0


def test_groups_follow_the_categories(make_run: MakeRun) -> None:
    groups = (("challenge: Basic",), ("challenge: Complex", "length: short"))
    run = make_run("base", (BRIGHT, rows([1, 2, 3, 6])), categories=("photo", "anime"), groups=groups)
    section = only_section([run])
    assert section.categories == ("photo", "anime", "challenge: Basic", "challenge: Complex", "length: short")
    assert section.cells["base", "bright", "challenge: Complex"].mean.value == 4.0
    alone = only_section([make_run("base", (BRIGHT, rows([1, 2, 3, 6])), suite="other", groups=groups[:1])])
    assert alone.categories == ()


def test_note_if_images_started_from_different_noise(make_run: MakeRun) -> None:
    runs = [
        make_run(name, (BRIGHT, rows([1, 2])), settings={"base_seed": seed, "noise": "n"})
        for name, seed in (("base", 0), ("new", 1))
    ]
    assert any("same noise" in note for note in only_section(runs).notes)
    assert not only_section(runs[:1]).notes


def test_cell_names_few_reasons_and_counts_the_others(make_run: MakeRun) -> None:
    run = make_run("base", (BRIGHT, rows([1.0] * 8)))
    failed = [Score(p, 0, "failed", reason=f"file {p} is damaged") for p in range(7)]
    other = replace(BRIGHT, reward="other", score_id="d" * 12)
    run.append_scores(other, [*failed, Score(7, 0, "ok", 1.0)])
    cell = only_section([run]).cells["base", "other", None]
    assert (cell.samples, sum(cell.missing.values()), len(cell.missing)) == (1, 7, 5)


def test_single_category_is_left_out(make_run: MakeRun) -> None:
    assert only_section([make_run("base", (BRIGHT, rows([1, 2])))]).categories == ()


def test_each_suite_is_a_section_and_a_missing_baseline_is_noted(make_run: MakeRun) -> None:
    runs = [
        make_run("base", (BRIGHT, rows([1, 2]))),
        make_run("new", (BRIGHT, rows([1, 2])), suite="art"),
        make_run("new", (BRIGHT, rows([2, 3]))),
    ]
    art, toy = build(runs, "base").sections
    assert (art.suite, toy.suite) == ("art", "toy")
    assert art.baseline is None
    assert art.cells["new", "bright", None].comparison is None
    assert "No run of the baseline base" in art.notes[0]
    assert toy.cells["new", "bright", None].comparison is not None


def test_unknown_baseline_suggests_a_close_match(make_run: MakeRun) -> None:
    run = make_run("base", (BRIGHT, rows([1, 2])))
    with pytest.raises(UnknownName, match="unknown baseline 'bse'; did you mean base"):
        build([run], "bse")


def test_generations_of_a_system_are_separate_entries(make_run: MakeRun) -> None:
    fast = make_run("base", (BRIGHT, rows([1, 2])), settings={"steps": 10})
    slow = make_run("base", (BRIGHT, rows([3, 4])), settings={"steps": 25})
    with pytest.raises(ValueError, match="matches several runs"):
        build([fast, slow], "base")
    fast_name = f"base@{fast.header.generation_id}"
    slow_name = f"base@{slow.header.generation_id}"
    section = only_section([fast, slow], fast_name)
    assert {entry.label for entry in section.entries} == {fast_name, slow_name}
    assert section.cells[fast_name, "bright", None].mean.value == 1.5
    assert section.cells[slow_name, "bright", None].mean.value == 3.5


def test_ambiguous_baseline_affects_only_its_own_section(make_run: MakeRun) -> None:
    runs = [make_run("base", (BRIGHT, rows([1, 2])), settings={"steps": steps}) for steps in (10, 25)]
    runs += [make_run(system, (BRIGHT, rows([1, 2])), suite="art") for system in ("base", "new")]
    art, toy = build(runs, "base").sections
    assert art.baseline == "base"
    assert toy.baseline is None
    assert "Several runs of the baseline base" in toy.notes[0]


def test_score_ids_of_a_reward_are_not_mixed(make_run: MakeRun) -> None:
    other = replace(BRIGHT, score_id="d" * 12)
    base, new = make_run("base", (BRIGHT, rows([1, 2]))), make_run("new", (other, rows([8, 9])))
    with pytest.raises(MismatchError, match=r"of bright .*: base b{12}, new d{12}; score them again"):
        build([base, new], "base")
    both = make_run("both", (BRIGHT, rows([1, 2])), (other, rows([8, 9])))
    section = only_section([both, new], "both")  # the version they have in common
    assert [column.label for column in section.columns] == ["bright"]
    assert section.cells["new", "bright", None].comparison is not None
    twice = make_run("twice", (BRIGHT, rows([1, 2])), (other, rows([8, 9])))
    labels = [column.label for column in only_section([both, twice], "both").columns]
    assert labels == [f"bright@{'b' * 12}", f"bright@{'d' * 12}"]


def test_different_prompts_under_one_suite_name_are_refused(make_run: MakeRun) -> None:
    base, new = make_run("base", (BRIGHT, rows([1, 2]))), make_run("new", (BRIGHT, rows([1, 2])))
    header = new.path / "run.json"
    header.write_text(header.read_text().replace(new.header.suite_sha256, "0" * 64))
    with pytest.raises(MismatchError, match=r"different prompts for suite toy .*: compare them separately"):
        build([base, RunState(new.path)], "base")


def test_method_is_better_only_if_all_its_seeds_are(make_run: MakeRun) -> None:
    level = noise(120, 0)
    base = make_run("base", (BRIGHT, rows(level)), (BLUR, rows(level)))
    gains, losses = (1.0, 1.2), (1.0, 0.0)
    seeds = [
        make_run(
            f"seed-{seed}",
            (BRIGHT, rows(level + gain + 0.1 * noise(120, 1))),
            (BLUR, rows(level - loss + 0.1 * noise(120, 2))),
            details={"trained_on": ["bright"], "method": "ours"},
        )
        for seed, (gain, loss) in enumerate(zip(gains, losses, strict=True))
    ]
    (method,) = [s for s in only_section([base, *seeds]).standings if s.is_method]
    assert (method.label, method.entries) == ("ours", ("seed-0", "seed-1"))
    bright, blur = method.differences["bright"], method.differences["blur"]
    assert (bright.claim, blur.claim) == ("better", "undecided")
    assert bright.low <= bright.mean <= bright.high
    assert bright.mean == pytest.approx(1.1, abs=0.03)


def test_gap_is_training_gain_minus_the_gain_on_all_other_rewards(make_run: MakeRun) -> None:
    level = noise(120, 0)
    other = replace(BRIGHT, reward="other", score_id="d" * 12, family="third")
    base = make_run("base", (BRIGHT, rows(level)), (BLUR, rows(level)), (other, rows(level)))
    details = {"trained_on": ["bright"]}
    tuned = make_run(
        "tuned",
        (BRIGHT, rows(level + 2)),
        (BLUR, rows(level + 1)),
        (other, rows(level + 0.5)),
        details=details,
    )
    unjudged = make_run("unjudged", (BRIGHT, rows(level + 2)), (other, rows(level)), details=details)
    gap = {entry.label: entry.gap for entry in only_section([base, tuned, unjudged]).entries}
    # A higher BLUR is worse, so the judge's gain is -1, and the held-out reward's is 0.5.
    assert gap["tuned"] == pytest.approx((2 - (-1 + 0.5) / 2) / level.std(ddof=1))
    assert (gap["base"], gap["unjudged"]) == (None, None)


def test_no_gap_with_an_unknown_training_reward(make_run: MakeRun) -> None:
    level = noise(120, 0)
    base = make_run("base", (BRIGHT, rows(level)), (BLUR, rows(level)))
    values = (BRIGHT, rows(level + 2)), (BLUR, rows(level - 1))
    known, odd = (
        make_run(name, *values, details={"trained_on": rewards})
        for name, rewards in (("known", ["bright"]), ("odd", ["bright", "brigt"]))
    )
    gap = {entry.label: entry.gap for entry in only_section([base, known, odd]).entries}
    assert gap["known"] == pytest.approx(1 / level.std(ddof=1))
    assert gap["odd"] is None  # blur may be the unknown one


def test_prompts_of_a_section_are_those_that_any_run_planned(make_run: MakeRun) -> None:
    base = make_run("base", (BRIGHT, rows([1, 2, 3, 4])))
    new = make_run("new", (BRIGHT, rows([1, 2, 3, 4, 5, 6])))
    header = replace(new.header, planned=Planned((2, 3, 4, 5), of=6, seeds=1))
    (new.path / "run.json").write_text(header.to_json(), encoding="utf-8")
    section = only_section([base, RunState(new.path)])
    assert section.prompts == 6
    assert {cell.prompts for cell in section.cells.values()} == {6}


def test_settings_without_a_value_are_shown_as_default(make_run: MakeRun) -> None:
    runs = [
        make_run(name, (BRIGHT, rows([1, 2])), settings={"steps": 25, **settings})
        for name, settings in (("base", {"size": None}), ("same", {}), ("large", {"size": 768}))
    ]
    section = only_section(runs)
    assert section.notes == ("Settings differ: size default (base, same), 768 (large).",)
    cautions = {standing.label: standing.cautions for standing in section.standings}
    assert cautions == {
        "base": (),
        "same": (),
        "large": ("other settings: size 768 (baseline default)",),
    }
    swapped = only_section(runs, "large").standings
    assert {standing.cautions for standing in swapped} == {
        (),
        ("other settings: size default (baseline 768)",),
    }


def test_same_run_twice_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("base", (BRIGHT, rows([1, 2])))
    copy = RunState(shutil.copytree(run.path, tmp_path / "copy"))
    with pytest.raises(MismatchError, match="hold the same run"):
        build([run, copy], "base")


def test_cells_say_why_scores_are_missing(make_run: MakeRun) -> None:
    run = make_run("base", (BRIGHT, [[1.0], [None], [2.0], [None]]), (BLUR, [[1.0], [2.0]]))
    cells = only_section([run]).cells
    bright, blur = cells["base", "bright", None], cells["base", "blur", None]
    assert (bright.samples, blur.samples) == (2, 2)
    assert bright.missing == {"flaky": 2}
    assert blur.missing == {"not scored yet": 2}


def test_reward_without_any_score_has_empty_cells(make_run: MakeRun) -> None:
    run = make_run("base", (BRIGHT, [[None], [None]]))
    assert only_section([run]).cells["base", "bright", None].mean.n == 0


def test_columns_are_ordered_from_trainable_to_judge(make_run: MakeRun) -> None:
    run = make_run("base", (BLUR, rows([1, 2])), (BRIGHT, rows([1, 2])))
    assert [column.label for column in only_section([run]).columns] == ["bright", "blur"]


def test_exposure_follows_what_the_system_was_trained_on(make_run: MakeRun) -> None:
    sibling = replace(BRIGHT, reward="brighter")
    scores = [(s, rows([1, 2])) for s in (BRIGHT, sibling, BLUR)]
    section = only_section(
        [make_run("base", *scores), make_run("tuned", *scores, details={"trained_on": ["bright"]})]
    )
    exposures = {
        column: section.cells["tuned", column, None].exposure for column in ("bright", "brighter", "blur")
    }
    assert exposures == {"bright": "trained-on", "brighter": "same-family", "blur": "held-out"}
    assert section.cells["base", "bright", None].exposure == "held-out"
    (silent,) = build([make_run("silent", (BRIGHT, rows([1, 2])), details={})], "silent").sections
    assert silent.cells["silent", "bright", None].exposure == "undeclared"


def test_entries_have_the_rank_and_the_order_of_their_standings(make_run: MakeRun) -> None:
    level, near = noise(100, 0), 0.01 * noise(100, 1)
    base = make_run("base", (BRIGHT, rows(level)), (BLUR, rows(level)))
    worse = make_run(
        "worse", (BRIGHT, rows(level + 9)), (BLUR, rows(level + 1)), details={"trained_on": ["bright"]}
    )
    better = [
        make_run(
            f"better-{seed}", (BRIGHT, rows(level)), (BLUR, rows(level - 1 + seed * near)), details=details
        )
        for seed, details in enumerate([{"trained_on": ["bright"], "method": "ours"}] * 2)
    ]
    section = only_section([worse, base, *better])
    ranks = [(entry.label, entry.rank) for entry in section.entries]
    assert ranks == [("better-0", 1), ("better-1", 1), ("base", 2), ("worse", 3)]
    assert [label for row in section.standings for label in row.entries] == [label for label, _ in ranks]


def test_no_rank_without_all_prompts_or_declared_training(make_run: MakeRun) -> None:
    level = noise(101, 0)
    base, same = (make_run(name, (BLUR, rows(level))) for name in ("base", "same"))
    short = make_run("short", (BLUR, rows([*(level[:100] - 5), None])))
    hidden = make_run("hidden", (BLUR, rows(level - 5)), details={})
    ranks = {e.label: e.rank for e in only_section([base, same, short, hidden]).entries}
    assert ranks == {"base": 1, "same": 1, "short": None, "hidden": None}
    holes = [
        make_run(n, (BLUR, [*rows(level[:100]), [None]][:: 1 if n == "a" else -1]), suite="h") for n in "ab"
    ]
    # Each run lacks a prompt that the other has.
    assert all(e.rank is None for e in only_section(holes, "a").entries)
    few = [make_run(name, (BLUR, rows(level[:99])), suite="few") for name in ("base", "same")]
    assert all(e.rank is None for e in only_section(few).entries)


def test_digest_depends_on_the_scores_alone(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("base", (BRIGHT, rows([1, 2]))), make_run("new", (BRIGHT, rows([2, 3])))]
    digest = build(runs, "base").sha256
    assert build(runs[::-1], "new").sha256 == digest
    moved = RunState(shutil.move(runs[1].path, tmp_path / "elsewhere"))
    assert build([runs[0], moved], "base").sha256 == digest
    other = make_run("new", (BRIGHT, rows([2, 4])))
    assert build([runs[0], other], "base").sha256 != digest


def test_build_takes_paths_and_opened_runs(make_run: MakeRun) -> None:
    run = make_run("base", (BRIGHT, rows([1, 2])))
    boards = [build(run.path.parent, "base"), build([str(run.path)], "base"), build([run], "base")]
    assert len({board.sha256 for board in boards}) == 1


def exposures(section: Section, system: str) -> dict[str, str]:
    return {cell.column: cell.exposure for cell in section.cells.values() if cell.entry == system}


@pytest.mark.parametrize(
    "details",
    [
        {"trained_on": ["brigt", "bright"], "trained_on_families": ["toy"], "trained_on_unknown": ["brigt"]},
        {"trained_on": ["brigt", "bright"]},  # recorded by another tool
    ],
)
def test_an_unknown_training_reward_leaves_other_rewards_undeclared(
    make_run: MakeRun, details: dict[str, list[str]]
) -> None:
    values = (BRIGHT, rows(noise(120, 0))), (BLUR, rows(noise(120, 1)))
    base, other, plain = (make_run(name, *values) for name in ("base", "other", "plain"))
    section = only_section([base, other, make_run("odd", *values, details=details)])
    assert exposures(section, "odd") == {"bright": "trained-on", "blur": "undeclared"}
    assert {entry.label: entry.rank for entry in section.entries} == {"base": 1, "other": 1, "odd": None}
    (row,) = [standing for standing in section.standings if standing.label == "odd"]
    assert row.cautions == ("unknown training reward brigt",)
    assert exposures(only_section([base, plain]), "plain") == {"bright": "held-out", "blur": "held-out"}


def test_names_of_old_records_can_be_checked_by_the_caller(make_run: MakeRun) -> None:
    details = {"trained_on": ["hps", "pickscor"], "trained_on_families": ["toy"]}
    run = make_run("base", (BLUR, rows([1, 2])), details=details)
    (section,) = build([run], "base", unknown_rewards=lambda names: [n for n in names if n != "hps"]).sections
    assert section.entries[0].unknown == ("pickscor",)
    assert only_section([run]).entries[0].unknown == ()


def test_own_rewards_are_recognised_by_the_hash_of_their_file(make_run: MakeRun) -> None:
    own = replace(BLUR, reward="Mine", details={"declared_as": f"custom:Mine@{'a' * 64}"})
    declared = {digest: {"trained_on": [f"custom:Mine@{digest * 64}"]} for digest in "ab"}
    runs = [make_run(name, (own, rows([1, 2])), details=details) for name, details in declared.items()]
    section = only_section(runs, "a")
    assert exposures(section, "a") == {"Mine": "trained-on"}
    assert exposures(section, "b") == {"Mine": "same-family"}  # another version of the file
    assert all(not entry.unknown for entry in section.entries)


def test_the_headline_names_settings_that_differ(make_run: MakeRun) -> None:
    settings = {"steps": 25, "guidance": 3.0, "sampler": "ddim"}
    values = (BRIGHT, rows([1, 2]))
    runs = [
        make_run("base", values, settings=settings),
        make_run("same", values, settings=settings),
        make_run("export", values, settings=settings | {"guidance": 7.5, "spacing": "trailing"}),
        make_run("imported", values),
    ]
    spacing = "spacing default (base, same), trailing (export)"
    note = f"Settings differ: {spacing}; guidance 3.0 (base, same), 7.5 (export)."
    assert note in only_section(runs).notes
    assert only_section(runs[:2]).notes == ()
    alone = [
        make_run(run.header.system, values, settings=run.header.generation, suite="art") for run in runs[1:3]
    ]
    art, _ = build([runs[0], *alone], "base").sections
    assert any(one.startswith("Settings differ") for one in art.notes)  # also without a baseline
