"""Settings: validation, TOML, assignments, and one line for every problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from tcbench.errors import ConfigError, Problems, TcbenchError, UnknownName
from tcbench.settings import (
    build_settings,
    merge,
    one_of,
    parse_assignment,
    read_toml,
    rename_keys,
    toml_value,
    validated,
)


@validated
class Optimiser:
    lr: Annotated[float, Field(gt=0)] = 1e-4
    kind: Annotated[str, one_of("optimiser", ("adamw", "sgd"))] = "adamw"


@validated
class Window:
    weights: Mapping[str, float]
    steps: int = 0


@validated
class Job:
    name: str
    optimiser: Optimiser = Optimiser()
    windows: tuple[Window, ...] = ()
    size: tuple[Annotated[int, Field(ge=8)], int] | None = None
    rewards: tuple[str, ...] = ()
    eager: bool = False
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.eager and not self.rewards:
            raise ConfigError("eager = True needs rewards")


def job(**values: Any) -> Job:
    return build_settings(Job, {"name": "n"} | values, source="job.toml", renamed={"lr": "optimiser.lr"})


def test_nested_values_become_a_record() -> None:
    built = job(
        optimiser={"lr": 1, "kind": "sgd"},
        windows=[{"weights": {"a": 1, "b": 0.5}, "steps": 3}],
        size=[64, 32],
        folder="here",
    )
    assert built.optimiser == Optimiser(1.0, "sgd")
    assert isinstance(built.optimiser.lr, float)
    assert built.windows[0].weights == {"a": 1.0, "b": 0.5}
    assert (built.size, built.folder) == ((64, 32), Path("here"))


def test_a_text_stands_for_a_list_of_one_name() -> None:
    assert job(rewards="clip").rewards == job(rewards=["clip"]).rewards == ("clip",)


@pytest.mark.parametrize("text", ["clip,siglip", "clip, siglip", "[clip, siglip]", "['clip', siglip]"])
def test_a_text_is_split_at_its_commas_where_a_list_is_expected(text: str) -> None:
    assert job(rewards=text).rewards == ("clip", "siglip")
    assert job(size="64,32").size == (64, 32)
    assert job(name=text).name == text


def test_a_record_is_accepted_as_a_nested_value() -> None:
    assert job(optimiser=Optimiser(0.5)).optimiser.lr == 0.5


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"name": 3}, ConfigError, "job.toml: name = 3; expected text"),
        ({"optimiser": {"lr": "x"}}, ConfigError, "job.toml: optimiser.lr = 'x'; expected a number"),
        ({"optimiser": {"lr": True}}, ConfigError, "job.toml: optimiser.lr = True; expected a number"),
        ({"optimiser": {"lr": 0}}, ConfigError, "job.toml: optimiser.lr = 0; expected more than 0"),
        ({"optimiser": {"lr": float("nan")}}, ConfigError, "optimiser.lr = nan; expected a finite number"),
        ({"optimiser": 3}, ConfigError, "job.toml: optimiser = 3; expected a table with lr, kind"),
        ({"optimiser": {"kind": "adam"}}, UnknownName, "job.toml: unknown optimiser 'adam'; did you mean"),
        ({"eager": 1, "rewards": "a"}, ConfigError, "job.toml: eager = 1; expected true or false"),
        ({"eager": True}, ConfigError, "job.toml: eager = True needs rewards"),
        ({"size": [64]}, ConfigError, "job.toml: size = [64]; expected a list of 2 whole numbers"),
        ({"size": [64, 2.5]}, ConfigError, "job.toml: size = [64, 2.5]; expected a list of 2 whole"),
        ({"size": [4, 9]}, ConfigError, "job.toml: size = [4, 9]; expected each at least 8"),
        ({"rewards": [1, 2]}, ConfigError, "job.toml: rewards = [1, 2]; expected a list of names"),
        ({"windows": 3}, ConfigError, "job.toml: windows = 3; expected a list of tables"),
        ({"windows": [{}]}, ConfigError, "windows[0].weights is missing; expected a table of numbers"),
        ({"windows": [{"weights": {"a": "b"}}]}, ConfigError, "windows[0].weights = {'a': 'b'}; expected a"),
        ({"nane": "x"}, UnknownName, "job.toml: unknown key 'nane'; did you mean name?"),
        ({"optimiser": {"lrr": 1}}, UnknownName, "unknown key 'optimiser.lrr'; did you mean optimiser.lr?"),
        ({"kind": "sgd"}, UnknownName, "unknown key 'kind'; available: optimiser.kind"),
        ({"lr": 1e-4}, ConfigError, "job.toml: 'lr' is now 'optimiser.lr'"),
    ],
)
def test_a_problem_is_one_line(values: dict[str, Any], error: type[TcbenchError], message: str) -> None:
    with pytest.raises(error) as raised:
        job(**values)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_several_problems_are_reported_together() -> None:
    with pytest.raises(Problems) as raised:
        job(lr=1, nane="x", size=[1], rewards=[1, 2])
    assert raised.value.exit_code == 2
    assert str(raised.value).splitlines() == [
        "job.toml: 'lr' is now 'optimiser.lr'",
        "job.toml: size = [1]; expected each at least 8",
        "job.toml: size = [1]; expected a list of 2 whole numbers",
        "job.toml: rewards = [1, 2]; expected a list of names",
        "job.toml: unknown key 'nane'; did you mean name?",
    ]


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^job.toml: name is missing; expected text$"):
        build_settings(Job, {}, source="job.toml")


def test_constructor_and_replace_validate_too() -> None:
    with pytest.raises(ConfigError, match=r"^lr = -1.0; expected more than 0$"):
        Optimiser(lr=-1.0)
    with pytest.raises(UnknownName, match="unknown optimiser 'x'"):
        Optimiser(1.0, "x")
    with pytest.raises(ConfigError, match=r"^lr = 'fast'; expected a number$"):
        replace(Optimiser(), lr="fast")
    with pytest.raises(ConfigError, match=r"^eager = True needs rewards$"):
        replace(Job("n"), eager=True)


def test_an_assignment_may_be_nested() -> None:
    assert parse_assignment("optimiser.lr = 1e-4") == {"optimiser": {"lr": 1e-4}}
    assert parse_assignment("size=[1, 2]") == {"size": [1, 2]}
    assert parse_assignment("rewards=clip=1,pickscore=2") == {"rewards": "clip=1,pickscore=2"}
    assert parse_assignment("prompts=") == {"prompts": ""}
    for text in ("lr", "=1", "a..b=1"):
        with pytest.raises(ConfigError, match="expected name=value"):
            parse_assignment(text)


def test_later_layers_win_key_by_key() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 3}}, {"d": [2]}) == {
        "a": {"b": 3, "c": 2},
        "d": [2],
    }


def test_old_keys_of_earlier_files_are_moved() -> None:
    old = {"lr": 1, "rewards": "a=1", "name": "n"}
    renamed = {"lr": "optimiser.lr", "rewards": "rewards.mix"}
    moved = {"optimiser": {"lr": 1}, "rewards": {"mix": "a=1"}, "name": "n"}
    assert rename_keys(old, renamed) == moved
    assert rename_keys(moved, renamed) == moved
    assert rename_keys({"lr": 1, "optimiser": {"lr": 2}}, renamed) == {"optimiser": {"lr": 2}}


def test_damaged_or_missing_toml_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    with pytest.raises(ConfigError, match=r"cannot read .*a.toml: No such file"):
        read_toml(file)
    file.write_text("lr = = 3")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_toml(file)
    file.write_text("\ufefflr = 3")
    assert read_toml(file) == {"lr": 3}


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        'quotes " and \\',
        "lines\n\t\x01\x7f",
        "ä 中 🎨",
        True,
        3,
        1e-7,
        ["🎨", "b"],
        {"a 🎨": 0.5, "b": 1},
    ],
)
def test_values_are_written_as_toml(tmp_path: Path, value: Any) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f"value = {toml_value(value)}\n", encoding="utf-8")
    assert read_toml(file) == {"value": value}


@validated
class _Hinted:
    name: str

    def __post_init__(self) -> None:
        raise UnknownName("name", self.name, ["b"], hint="or give a path")


def test_a_hint_survives_the_name_of_the_file() -> None:
    with pytest.raises(UnknownName, match=r"^job\.toml: unknown name 'x'; available: b; or give a path$"):
        build_settings(_Hinted, {"name": "x"}, source="job.toml")
