"""Terminals that lack characters: every verb ends well, and files are UTF-8 all the same."""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.cli import VERBS, _degrade_output, main
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from tcbench.launch import ROOT

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")
Printed = Callable[..., tuple[int, str]]
PACKAGES = ("tcbench", "leaderboards", "rewards", "textcraftor", "benchmarks", "scripts")


@pytest.fixture(params=["ascii", "cp1252"])
def printed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Printed:
    """Runs a command on a terminal of this encoding and returns its exit code and what was printed."""

    def call(*arguments: object) -> tuple[int, str]:
        buffer = io.BytesIO()
        with monkeypatch.context() as patch:
            for name in ("stdout", "stderr"):
                stream = io.TextIOWrapper(buffer, encoding=request.param, write_through=True)
                patch.setattr(sys, name, stream)
                streams.append(stream)  # a stream that is deleted closes its buffer
            with pytest.raises(SystemExit) as ended:
                main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), buffer.getvalue().decode(request.param)

    streams: list[io.TextIOWrapper] = []
    return call


@pytest.fixture
def runs(make_run: Callable[..., RunState]) -> Path:
    values = [[float(i % 7)] for i in range(120)]
    prompts = ("一只猫 ≈ a cat", "café 🎨")
    make_run("base", (BRIGHT, values), prompts=prompts)
    return make_run(
        "新 é", (BRIGHT, [[value + i % 3] for i, (value,) in enumerate(values)]), prompts=prompts
    ).path.parent


def test_a_board_is_written_and_printed(printed: Printed, runs: Path, tmp_path: Path) -> None:
    code, shown = printed("leaderboard", runs, "--baseline", "base", "--out", tmp_path / "board")
    assert code == 0
    assert r"\u65b0 " in shown
    assert "better by held-out" in shown
    text = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    assert "新 é" in text
    assert "bright ↑" in text


def test_two_runs_are_compared(printed: Printed, runs: Path) -> None:
    code, shown = printed("compare", "base", "新 é", "--runs", runs)
    assert code == 0
    assert "(+) better" in " ".join(shown.split())
    assert r"\u4e00\u53ea\u732b" in shown


def test_lists_and_errors_are_printed(printed: Printed, runs: Path) -> None:
    for arguments in (["ls", "models"], ["ls", "rewards"], ["ls", "suites"], ["ls", "runs", "--out", runs]):
        assert printed(*arguments)[0] == 0
    assert printed("weights", "list")[0] == 0
    code, shown = printed("leaderboard", runs, "--baseline", "新")
    assert code == 2
    assert r"unknown baseline '\u65b0'" in shown


def test_every_verb_prints_its_help(printed: Printed) -> None:
    for verb in VERBS:
        code, shown = printed(verb, "--help")
        assert code == 0
        assert "Usage" in shown


def test_every_text_file_names_its_encoding() -> None:
    locale_dependent = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _depends_on_locale(node)
    ]
    assert locale_dependent == []


def _depends_on_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of the user's locale."""
    names = {keyword.arg for keyword in call.keywords}
    name = getattr(call.func, "attr", "")
    if "encoding" in names:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if "open" in (name, getattr(call.func, "id", "")):
        return _opens_text(call)
    return name in ("run", "Popen", "check_output") and "text" in names


def _opens_text(call: ast.Call) -> bool:
    """Whether ``open(path, mode)`` or ``path.open(mode)`` opens a file as text.

    The first argument of another ``open``, such as that of `PIL.Image`, is no mode.
    """
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    modes += call.args[1:2] if isinstance(call.func, ast.Name) else call.args[:1]
    if not modes:
        return True
    mode = modes[0].value if isinstance(modes[0], ast.Constant) else None
    return isinstance(mode, str) and set(mode) <= set("rwaxt+")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open(path)", True), ('open(path, "w")', True), ('open(path, mode="a")', True),
        ('path.open("w")', True), ("path.open()", True), ('path.open(mode="r+")', True),
        ('open(path, "rb")', False), ('path.open("wb")', False), ("Image.open(path)", False),
        ('open(path, "w", encoding="utf-8")', False), ('path.open(encoding="utf-8")', False),
        ("path.read_text()", True), ("path.write_text(text)", True), ('path.read_text("utf-8")', False),
    ],
)  # fmt: skip
def test_calls_that_depend_on_the_locale_are_found(code: str, expected: bool) -> None:
    (statement,) = ast.parse(code).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    assert _depends_on_locale(statement.value) is expected


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", r"1/2 e n \u65b0 (+) >= \xb9 \ufb01"), ("cp1252", r"½ é ñ \u65b0 (+) >= ¹ \ufb01")],
)
def test_characters_that_an_encoding_lacks_are_replaced(encoding: str, shown: str) -> None:
    _degrade_output()
    assert "½ é ñ 新 ▲ ≥ ¹ ﬁ".encode(encoding, "tcbench.plain").decode(encoding) == shown
