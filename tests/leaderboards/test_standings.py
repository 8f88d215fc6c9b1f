"""The opening table: gains, ranks, verdicts and cautions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from leaderboards.board import Standing
from leaderboards.builder import build
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from tests.leaderboards.conftest import BLUR, BRIGHT

MakeRun = Callable[..., RunState]

VOTES = replace(BRIGHT, reward="votes", score_id="e" * 12, role="human", family="people")
CHOOSER = replace(BRIGHT, reward="chooser", score_id="d" * 12, role="selection", family="third")

LEVEL = np.random.default_rng(0).normal(size=120)


def scores(gain: float, prompts: int = 120, seed: int = 1) -> list[list[float | None]]:
    """Scores of one image per prompt: the baseline's, plus a gain in its standard deviations with noise."""
    noise = 0.1 * np.random.default_rng(seed).normal(size=120)
    noise -= noise.mean()
    values = LEVEL + (gain + noise if gain else 0) * LEVEL.std(ddof=1)
    return [[float(value)] for value in values[:prompts]]


def standings(*runs: RunState) -> Mapping[str, Standing]:
    (section,) = build(runs, "base").sections
    return {standing.label: standing for standing in section.standings}


def system(make_run: MakeRun, name: str, bright: float, blur: float, chooser: float = 0.0, **options):
    """A run with these gains; a gain in blur is a lower score."""
    lower = [[-value for value in row] for row in scores(blur)]
    return make_run(name, (BRIGHT, scores(bright)), (BLUR, lower), (CHOOSER, scores(chooser)), **options)


TRAINED = {"trained_on": ["bright"]}


def test_gains_are_in_standard_deviations_of_the_baseline(make_run: MakeRun) -> None:
    runs = system(make_run, "base", 0, 0), system(make_run, "new", 2.0, -0.5, 1.0, details=TRAINED)
    gains = standings(*runs)["new"].gains
    assert {group: gain.mean for group, gain in gains.items()} == pytest.approx(
        {"trained-on": 2.0, "held-out": 1.0, "judge": -0.5}
    )
    estimate = gains["judge"].estimate
    assert estimate is not None
    assert estimate.low < -0.5 < estimate.high < -0.4
    assert estimate.method == "bootstrap-t"


def test_rank_goes_by_judges_then_held_out_rewards_never_by_training_rewards(make_run: MakeRun) -> None:
    rows = standings(
        system(make_run, "base", 0, 0),
        system(make_run, "judged", 0.1, 0.5, -0.5, details=TRAINED),
        system(make_run, "held", 0.1, 0, 0.5, details=TRAINED),
        system(make_run, "trained", 5.0, -0.5, 0, details=TRAINED),
    )
    ranks = [(label, row.rank) for label, row in rows.items()]
    assert ranks == [("judged", 1), ("held", 2), ("base", 3), ("trained", 4)]
    assert rows["judged"].verdict == "better by judges, worse by held-out rewards"
    assert rows["held"].verdict == "better by held-out rewards"
    assert rows["trained"].verdict == "worse by judges, better only by its training rewards"


def test_unresolved_differences_share_a_rank(make_run: MakeRun) -> None:
    rows = standings(
        system(make_run, "base", 0, 0),
        system(make_run, "a", 0.1, 0.5, details=TRAINED),
        system(make_run, "b", 0.1, 0.51, details=TRAINED),
    )
    assert {label: row.rank for label, row in rows.items()} == {"a": 1, "b": 1, "base": 3}


def test_a_chain_of_unresolved_differences_is_one_rank(make_run: MakeRun) -> None:
    # 0.04 apart, with intervals of about 0.018 to each side: neighbours overlap, the ends do not.
    chain = {"a": 0.56, "b": 0.53, "c": 0.50}
    runs = [system(make_run, name, 0.1, gain, details=TRAINED) for name, gain in chain.items()]
    rows = standings(system(make_run, "base", 0, 0), *runs)
    lows = {name: rows[name].gains["judge"].estimate.low for name in chain}
    highs = {name: rows[name].gains["judge"].estimate.high for name in chain}
    assert lows["a"] < highs["b"]
    assert lows["b"] < highs["c"] < lows["a"]
    assert {label: row.rank for label, row in rows.items()} == {"a": 1, "b": 1, "c": 1, "base": 4}


def test_no_rank_below_100_prompts(make_run: MakeRun) -> None:
    base, new = make_run("base", (BLUR, scores(0, 99))), make_run("new", (BLUR, scores(2.0, 99)))
    rows = standings(base, new)
    assert [row.rank for row in rows.values()] == [None, None]
    assert rows["new"].verdict == "no claim: fewer than 100 prompts"


def test_seeds_of_a_method_are_one_row_and_must_agree(make_run: MakeRun) -> None:
    details = {**TRAINED, "method": "ours"}
    seeds = [
        system(make_run, f"seed-{i}", 1.0 + i, judge, details=details)
        for i, judge in enumerate((0.5, 0.4, 0.001))
    ]
    rows = standings(system(make_run, "base", 0, 0), *seeds)
    assert list(rows) == ["ours", "base"]
    ours = rows["ours"]
    assert ours.entries == ("seed-0", "seed-1", "seed-2")
    assert ours.gains["trained-on"].seeds == pytest.approx((1.0, 2.0, 3.0))
    assert ours.gains["judge"].estimate.low > 0  # the average is clear, but one seed by itself is not
    assert ours.gains["judge"].claim == "undecided"
    assert (ours.rank, rows["base"].rank) == (1, 1)
    assert ours.verdict == "undecided, better only by its training rewards"


def test_limits_of_a_run_are_in_its_verdict_and_it_has_no_rank(make_run: MakeRun) -> None:
    settings = {"steps": 25, "sampler": "ddim"}
    short = [*scores(0.5, 110), *[[None]] * 10]
    rows = standings(
        make_run("base", (BLUR, scores(0)), settings=settings),
        make_run("same", (BLUR, scores(0)), settings={**settings, "own": 1}),
        make_run("short", (BLUR, short), settings=settings),
        make_run("silent", (BLUR, scores(0.5)), settings=settings, details={}),
        make_run("fast", (BLUR, scores(0.5)), settings={**settings, "steps": 10}, watermarks=("draft",)),
    )
    cautions = {label: row.cautions for label, row in rows.items()}
    assert cautions == {
        "base": (),
        "same": (),
        "short": ("incomplete: 110 of 120 images scored",),
        "silent": ("training rewards undeclared",),
        "fast": ("draft", "other settings: steps 10 (baseline 25)"),
    }
    assert {label for label, row in rows.items() if row.rank is None} == {"short", "silent"}
    assert rows["silent"].verdict.endswith("; training rewards undeclared")


def test_marks_that_all_runs_share_are_not_repeated(make_run: MakeRun) -> None:
    runs = [make_run(name, (BLUR, scores(0)), watermarks=("limit 120 of 800",)) for name in ("base", "new")]
    assert not any(row.cautions for row in standings(*runs).values())


def test_run_without_judges_does_not_take_judges_from_the_others(make_run: MakeRun) -> None:
    rows = standings(
        system(make_run, "base", 0, 0),
        system(make_run, "new", 0, 0.5),
        make_run("unjudged", (BRIGHT, scores(0)), (CHOOSER, scores(0))),
    )
    assert rows["new"].rank == 1
    assert rows["unjudged"].rank is None
    assert rows["unjudged"].cautions == ("incomplete: not scored by all judges",)


def test_human_votes_have_their_own_column(make_run: MakeRun) -> None:
    base = make_run("base", (VOTES, scores(0)), (BLUR, scores(0)))
    new = make_run("new", (VOTES, scores(0.5)), (BLUR, scores(0)))
    row = standings(base, new)["new"]
    assert row.gains["human"].mean == pytest.approx(0.5)
    assert row.verdict == "better by human votes"


def test_no_gains_without_a_baseline(make_run: MakeRun) -> None:
    runs = [make_run("base", (BLUR, scores(0))), make_run("new", (BLUR, scores(0)), suite="art")]
    art, _ = build(runs, "base").sections
    (row,) = art.standings
    assert (row.label, row.rank, row.gains, row.verdict) == ("new", None, {}, "")


def with_holes(rows: list[list[float | None]], missing: int) -> list[list[float | None]]:
    """The same scores without those of the `missing` lowest, which would lower the mean."""
    lowest = set(np.argsort([row[0] for row in rows])[:missing].tolist())
    return [[None] if index in lowest else row for index, row in enumerate(rows)]


def test_scores_that_all_systems_lack_are_missing_too(make_run: MakeRun) -> None:
    kinds = (BRIGHT, scores(0)), (BLUR, with_holes(scores(0), 15))
    rows = standings(*(make_run(name, *kinds) for name in ("base", "same")))
    assert {row.rank for row in rows.values()} == {None}
    assert {row.cautions for row in rows.values()} == {("incomplete: 105 of 120 images scored by blur",)}


@pytest.mark.parametrize("lacking", [BRIGHT, BLUR, CHOOSER])
def test_a_system_without_all_scores_of_any_reward_has_no_rank(make_run: MakeRun, lacking: ScoreSet) -> None:
    kinds = [
        (reward, with_holes(scores(0.5), 15) if reward == lacking else scores(0.5))
        for reward in (BRIGHT, BLUR, CHOOSER)
    ]
    base, same = (system(make_run, name, 0, 0) for name in ("base", "same"))
    rows = standings(base, same, make_run("new", *kinds, details=TRAINED))
    assert [label for label, row in rows.items() if row.rank is None] == ["new"]
    assert rows["new"].cautions == (f"incomplete: 105 of 120 images scored by {lacking.reward}",)


def test_a_missing_image_of_a_prompt_costs_the_rank_too(make_run: MakeRun) -> None:
    two = [[row[0], row[0]] for row in scores(0)]
    rows = standings(
        make_run("base", (BLUR, two)),
        make_run("same", (BLUR, two)),
        make_run("new", (BLUR, [[two[0][0], None], *two[1:]])),
    )
    assert [label for label, row in rows.items() if row.rank is None] == ["new"]


def test_an_unfinished_run_says_how_many_images_it_has(
    make_run: MakeRun, unfinished_run: Callable[..., RunState]
) -> None:
    base = make_run("base", (BLUR, scores(0)))
    row = standings(base, unfinished_run("killed", images=16, planned=120))["killed"]
    assert row.rank is None
    assert row.verdict == "16 of 120 images, incomplete; no image scored"
