"""Packages import in one direction, modules never in a circle, and light commands load nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
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
    """Yield (line, top-level package) of every import statement, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "" if node.level else (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_layering(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    upward = [
        f"{file.relative_to(ROOT)}:{line} imports {name or 'relatively'}"
        for file in files
        for line, name in imports(file.read_text(encoding="utf-8"))
        if not name or (name in MAY_IMPORT and name not in MAY_IMPORT[package])
    ]
    assert not upward


def test_imports_finds_every_form_of_import() -> None:
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    import i"
    assert list(imports(source)) == [(1, "a"), (1, "c"), (2, "d"), (3, ""), (5, "i")]


def test_leaderboards_never_import_torch() -> None:
    for file in (ROOT / "leaderboards").rglob("*.py"):
        assert "torch" not in {name for _, name in imports(file.read_text(encoding="utf-8"))}, file


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reachable = {module: _reachable(graph, module) for module in graph}
    in_circle = (module for module in graph if module in reachable[module])
    groups = {
        tuple(sorted(other for other in reachable[module] if module in reachable[other]))
        for module in in_circle
    }
    return sorted(map(list, groups))


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = [*graph[start]]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += graph[module]
    return seen


def import_graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return what each of our modules imports of our modules, at any depth and under TYPE_CHECKING too.

    ``from package import module`` counts as an import of the module, not of the package.
    """
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        targets: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    targets.add(submodule if submodule in files else node.module or "")
        graph[module] = targets & files.keys()
    return graph


def test_no_module_imports_itself_through_others() -> None:
    paths = (path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }
    assert circles(import_graph(files)) == []


def test_circles_are_found_through_functions_and_type_checking(tmp_path: Path) -> None:
    sources = {
        "a": "import b",
        "b": "def f():\n    from c import g",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a",
        "d": "import a",
    }
    for name, source in sources.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    assert circles(import_graph({name: tmp_path / name for name in sources})) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["ls", "rewards"],
        ["ls", "models"],
        ["ls", "suites"],
        ["weights", "list"],
        ["train", "--help"],
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    heavy = (*HEAVY, "numpy") if "--help" in arguments else HEAVY
    probe = PROBE.format(arguments=arguments, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert len(done.stdout.splitlines()) > 3
