"""Errors: exit codes, close matches, several problems at once."""

from __future__ import annotations

import re
from functools import partial

import pytest

from tcbench.errors import (
    ConfigError,
    MismatchError,
    MissingFiles,
    ProblemCollector,
    Problems,
    TcbenchError,
    UnknownName,
    first_line,
)


def test_an_unknown_name_offers_close_matches_or_all_names() -> None:
    known = ["pickscore", "hpsv2"]
    assert str(UnknownName("reward", "pikscore", known)) == (
        "unknown reward 'pikscore'; did you mean pickscore?"
    )
    assert str(UnknownName("reward", "zzz", known)) == "unknown reward 'zzz'; available: pickscore, hpsv2"
    assert str(UnknownName("reward", "zzz", [])) == "unknown reward 'zzz'; available: none"
    assert str(UnknownName("key", "zzz", ["a"], source="x.toml")) == "x.toml: unknown key 'zzz'; available: a"


def test_an_unknown_name_among_many_lists_some_and_where_to_find_all() -> None:
    known = [f"reward-{number}" for number in range(40)]
    error = UnknownName("reward", "zzz", known, source="x.toml", listing="tcbench ls rewards")
    names = r"reward-0, reward-1, .*, and 3\d more \(`tcbench ls rewards`\)"
    assert re.fullmatch(rf"x\.toml: unknown reward 'zzz'; available: {names}", str(error))
    assert len(str(error)) < 200
    few = UnknownName("reward", "zzz", ["a"], listing="tcbench ls rewards")
    assert str(few) == "unknown reward 'zzz'; available: a"


def test_exit_codes_are_those_of_the_classes() -> None:
    assert [error.exit_code for error in (TcbenchError("a"), ConfigError("a"))] == [1, 1]
    assert UnknownName("reward", "a", []).exit_code == 2
    assert Problems([ConfigError("a"), MismatchError("b"), ConfigError("c")]).exit_code == 4


def fail(*errors: TcbenchError) -> None:
    raise Problems(errors) if len(errors) > 1 else errors[0]


def test_all_checks_run_before_any_error_is_raised() -> None:
    problems = ProblemCollector()
    assert problems.run(lambda: 3) == 3
    problems.raise_any()
    assert problems.run(lambda: fail(ConfigError("a"))) is None
    with problems.catch():
        fail(ConfigError("b"), UnknownName("reward", "c", []))
    with pytest.raises(Problems) as raised:
        problems.raise_any()
    assert str(raised.value).splitlines() == ["a", "b", "unknown reward 'c'; available: none"]
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("fetch", [False, True])
def test_nothing_is_downloaded_before_mistakes_are_fixed(fetch: bool) -> None:
    downloads = []

    def find(problems: ProblemCollector, download: bool, mistake: bool) -> str:
        if download:
            downloads.append("weights")
        else:
            problems.run(lambda: fail(MissingFiles("weights", download=True)))
        if mistake:
            problems.run(lambda: fail(MissingFiles("no such file")))
        return "found"

    with pytest.raises(TcbenchError) as raised:
        ProblemCollector.before_downloads(partial(find, mistake=True), fetch=fetch)
    assert str(raised.value).splitlines() == ["no such file", *([] if fetch else ["weights"])]
    assert not downloads
    if fetch:
        assert ProblemCollector.before_downloads(partial(find, mistake=False), fetch=True) == "found"
        assert downloads == ["weights"]
    else:
        with pytest.raises(MissingFiles, match=r"^weights$"):
            ProblemCollector.before_downloads(partial(find, mistake=False), fetch=False)


def test_a_single_error_is_raised_unchanged() -> None:
    problems = ProblemCollector()
    problems.run(lambda: fail(MismatchError("a")))
    with pytest.raises(MismatchError, match=r"^a$"):
        problems.raise_any()


def test_other_errors_are_not_collected() -> None:
    with pytest.raises(ZeroDivisionError):
        ProblemCollector().run(lambda: 1 / 0)


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("a\nb")) == "a"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
