"""Hooks of the documentation site (mkdocs.yml).

The pages are written to be read in the repository as well as on the site. The hooks bridge the differences:
links to files that are not part of the site become text, `<details>` may contain Markdown, and
ARCHITECTURE.md and CHANGELOG.md become pages. They also write the command line's reference and fail the
build if a documented name has no docstring.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

log = logging.getLogger("mkdocs.hooks.site")  # below "mkdocs", so that --strict counts the warnings

_ROOT_PAGES = {"architecture.md": "ARCHITECTURE.md", "changelog.md": "CHANGELOG.md"}
_ROOT_FILES = ("README.md", "CONTRIBUTING.md", *_ROOT_PAGES.values())
_TARGET = r"\]\((?![a-z]+:|#)([^)#\s]+)"
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"^(```.*?^```|    [^\n]*)$", re.DOTALL | re.MULTILINE)
_ARGUMENT = re.compile(r"^\s+(\w+): ", re.MULTILINE)
_COMMANDS = "<!-- commands -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of files outside docs/, and check the links of files at the root."""
    for page, source in _ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_below_docs, text)))
    for source in _ROOT_FILES:
        for target in re.findall(_TARGET, (ROOT / source).read_text(encoding="utf-8")):
            if not (ROOT / target).exists():
                log.warning("%s: broken link to %s", source, target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave the site into text, and fill in the command line's reference."""
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, "\n".join(_command_pages()))
    parts = _CODE.split(markdown)
    for i in range(0, len(parts), 2):  # odd parts are code blocks
        parts[i] = _LINK.sub(lambda match: _site_link(match, page, files), parts[i])
    return "".join(parts)


def on_post_build(config: MkDocsConfig) -> None:
    """Warn, and so fail the build, for every documented name without a docstring."""
    for name in _undocumented_names(Path(config.docs_dir) / "reference"):
        log.warning("%s has no docstring", name)


def _undocumented_names(reference: Path) -> list[str]:
    """Return the public names that the pages in ``reference`` show and that have no docstring."""
    loader = griffe.GriffeLoader(search_paths=[ROOT], allow_inspection=False)
    identifiers = [
        identifier
        for page in sorted(reference.glob("*.md"))
        for identifier in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    for package in sorted({identifier.partition(".")[0] for identifier in identifiers}):
        loader.load(package)
    loader.resolve_aliases(implicit=False, external=False)
    return [
        name for identifier in identifiers for name in _undocumented(loader.modules_collection[identifier])
    ]


def _undocumented(item: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Yield the names of ``item`` and its public members that lack a docstring, fields included."""
    if not item.has_docstring:
        yield item.path
    if not (item.is_module or item.is_class):
        return
    known = set(_ARGUMENT.findall(item.docstring.value)) if item.docstring else set()
    if item.is_class:
        known |= {name for base in item.mro() for name in base.members}  # documented there
    for name, member in item.members.items():
        if not member.is_public or name.startswith("__") or (member.is_alias and not item.is_module):
            continue
        target = member.final_target if isinstance(member, griffe.Alias) else member
        if target.is_function or target.is_class or (item.is_class and name not in known):
            yield from _undocumented(target)


def _below_docs(match: re.Match[str]) -> str:
    """Rewrite a link of a file at the root of the repository for a page in docs/."""
    text, target, anchor = match.groups(default="")
    below = posixpath.relpath(target, "docs")
    return f"[{text}]({below}{anchor})"


def _site_link(match: re.Match[str], page: Page, files: Files) -> str:
    """Keep a link within the site; replace one to another file of the repository by its path."""
    text, target, _ = match.groups(default="")
    folder = posixpath.dirname(page.file.src_uri)
    uri = posixpath.normpath(posixpath.join(folder, target))
    file = files.get_file_from_path(uri)
    if file is not None and not file.inclusion.is_excluded():
        return match.group()
    for generated, source in _ROOT_PAGES.items():
        if uri == f"../{source}":
            return f"[{text}]({posixpath.relpath(generated, folder or '.')})"
    path = posixpath.normpath(posixpath.join("docs", uri))
    if not (ROOT / path).exists():
        log.warning("%s: broken link to %s", page.file.src_uri, target)
    return text if path.rstrip("/").endswith(text.strip("`/")) and "`" in text else f"{text} (`{path}`)"


def _command_pages() -> Iterator[str]:
    """The help of every command as Markdown, from the command line's own definitions."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.cli import VERBS, load_command

    for name in VERBS:
        command = load_command(name)
        commands = getattr(command, "commands", None)
        if commands is None:
            yield from _command(f"tcbench {name}", command)
        else:
            for sub, subcommand in commands.items():
                yield from _command(f"tcbench {name} {sub}", subcommand)


def _command(title: str, command: Any) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield command.help or command.callback.__doc__ or ""
    rows = [_parameter(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        yield "\n| argument or option | description |\n|---|---|"
        yield from rows


def _parameter(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = ", ".join(parameter.opts) if is_option else parameter.metavar or parameter.name.upper()
    default = parameter.default
    shown = "" if default in (None, False, (), "") or callable(default) else f" Default: `{default}`."
    required = " Required." if parameter.required else ""
    help_text = " ".join((getattr(parameter, "help", "") or "").split())
    help_text = re.sub(r"([|\[\]])", r"\\\1", help_text)
    return f"| `{names}` | {help_text}{required}{shown} |"
