"""Count the public names of the code and check them against limits.

    python scripts/count_names.py --max-names 487 --max-duplicates 10
    python scripts/count_names.py --word found

A public name is a top-level function or class without a leading underscore, in any tracked Python file
outside tests. Every public name is a concept that a reader has to learn, and a name with two definitions is
one that the reader has to look up each time.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

_ROOT = Path(__file__).resolve().parent.parent
_Definitions = Mapping[str, list[str]]
"""Public names by file."""


def main() -> None:
    """Print the counts; exit with 1 if one of them exceeds its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-names", type=int, help="highest number of public names")
    parser.add_argument("--max-duplicates", type=int, help="highest number of names defined in several files")
    parser.add_argument("--list", action="store_true", help="print the names defined in several files")
    parser.add_argument("--unused", action="store_true", help="print public names that no other module uses")
    parser.add_argument("--word", help="print how often an identifier occurs, and exit")
    options = parser.parse_args()
    sources = _sources()
    if options.word:
        counts = {path: _count_identifier(source, options.word) for path, source in sources.items()}
        in_tests = sum(count for path, count in counts.items() if _is_test(path))
        print(f"{options.word}: {sum(counts.values())}, of which in tests: {in_tests}")
        return
    trees = {path: ast.parse(source) for path, source in sources.items() if not _is_test(path)}
    definitions = {path: _public_names(tree) for path, tree in trees.items()}
    duplicates = _duplicates(definitions)
    if options.list:
        for name, paths in sorted(duplicates.items()):
            print(f"{name}: {', '.join(paths)}")
    if options.unused:
        for path, name in _unused(trees, definitions):
            print(f"{path}: {name}")
    total = sum(map(len, definitions.values()))
    print(f"public names: {total}, defined in more than one file: {len(duplicates)}")
    limits = ((total, options.max_names), (len(duplicates), options.max_duplicates))
    if any(limit is not None and count > limit for count, limit in limits):
        sys.exit(f"more than allowed: {options.max_names} names, {options.max_duplicates} duplicates")


def _sources() -> dict[str, str]:
    """Text of every tracked Python file, by its path in the repository."""
    command = ["git", "ls-files", "--cached", "--", "*.py"]
    done = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, encoding="utf-8")
    listed = done.stdout.split("\n")
    # A file that was deleted but not yet staged is still listed.
    paths = [path for path in listed if path and (_ROOT / path).is_file()]
    return {path: (_ROOT / path).read_text(encoding="utf-8") for path in paths}


def _is_test(path: str) -> bool:
    return "tests" in PurePosixPath(path).parts


def _public_names(tree: ast.Module) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    # A name defined twice in one file (overloads, an `if` for versions) is one name.
    return sorted({node.name for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"})


def _duplicates(definitions: _Definitions) -> dict[str, list[str]]:
    """Files by name, for names that more than one file defines."""
    files: dict[str, list[str]] = defaultdict(list)
    for path, names in definitions.items():
        for name in names:
            files[name].append(path)
    return {name: paths for name, paths in files.items() if len(paths) > 1}


def _unused(trees: Mapping[str, ast.Module], definitions: _Definitions) -> Iterator[tuple[str, str]]:
    """(file, name) of public names that are used in their own file only, or in tests only."""
    modules = {_module(path): path for path in trees}
    # Scripts import each other from their folder.
    modules |= {PurePosixPath(path).stem: path for path in trees if path.startswith("scripts/")}
    used = {
        (modules[module], name)
        for path, tree in trees.items()
        for module, name in _uses(tree, modules)
        if modules.get(module, path) != path
    }
    for path, names in definitions.items():
        yield from ((path, name) for name in names if (path, name) not in used)


def _uses(tree: ast.Module, modules: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(module, name) of what a file takes from our modules."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            submodules = {alias for alias in node.names if f"{node.module}.{alias.name}" in modules}
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in submodules}
            yield from ((node.module or "", alias.name) for alias in node.names if alias not in submodules)
        elif isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # Registries, lazy exports and CLI commands name what they load as "module:name".
            module, _, name = node.value.partition(":")
            yield module, name
    # A second pass, for a module may be imported inside a function that stands below its use.
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    yield from ((aliases.get(ast.unparse(node.value), ""), node.attr) for node in attributes)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _count_identifier(source: str, word: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.NAME and token.string == word for token in tokens)


if __name__ == "__main__":
    main()
