"""The four packages stand on each other in one order, and light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "tcbench": {"tcbench"},
    "leaderboards": {"leaderboards", "tcbench"},
    "rewards": {"rewards", "tcbench"},
    "textcraftor": {"textcraftor", "rewards", "leaderboards", "tcbench"},
    "benchmarks": {"benchmarks", "textcraftor", "rewards", "leaderboards", "tcbench"},
}

HEAVY = ("torch", "transformers", "diffusers", "open_clip", "pandas", "matplotlib")

PROBE = """
import sys
from benchmarks.cli import main
sys.argv = ["tcbench", *{arguments!r}]
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
print("loaded:", *sorted(set({heavy!r}) & set(sys.modules)))
"""


def imports(source: str) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every import statement, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "" if node.level else (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_layering(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name or 'relatively'}"
        for file in files
        for line, name in imports(file.read_text(encoding="utf-8"))
        if not name or (name in MAY_IMPORT and name not in MAY_IMPORT[package])
    ]
    assert not wrong


def test_the_walk_sees_every_form_of_import() -> None:
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    import i"
    assert list(imports(source)) == [(1, "a"), (1, "c"), (2, "d"), (3, ""), (5, "i")]


def test_leaderboards_never_import_torch() -> None:
    for file in (ROOT / "leaderboards").rglob("*.py"):
        assert "torch" not in {name for _, name in imports(file.read_text(encoding="utf-8"))}, file


@pytest.mark.parametrize("arguments", [["--help"], ["ls", "rewards"], ["weights", "list"]], ids=" ".join)
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    probe = PROBE.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert len(done.stdout.splitlines()) > 3
