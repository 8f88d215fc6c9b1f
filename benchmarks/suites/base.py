"""What a suite is, where its prompt files are looked for, and the check that they are the pinned ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rewards.weights import hub
from tcbench.errors import FileFormatError, MismatchError, MissingFiles
from textcraftor.diffusion.prompts import Prompt, prompts_sha256, read_prompts

PROMPTS_VARIABLE = "TCBENCH_PROMPTS"


@dataclass(frozen=True)
class PromptSource:
    """One file of a suite: the names it goes by in a folder, and where the hub has it (dataset id, file)."""

    names: tuple[str, ...]
    hub: tuple[str, str] | None = None
    shipped: Path | None = None


@dataclass(frozen=True)
class Suite:
    """A pinned prompt set. `count` and `sha256` are of its ordered canonical prompts, not of file bytes."""

    name: str
    title: str
    count: int
    sha256: str
    sources: tuple[PromptSource, ...]
    read: Callable[[Sequence[Path]], list[Prompt]]
    domain: str
    """ "open" for prompts about anything, else the world they are about."""
    homepage: str
    licence: str
    groups: tuple[str, ...] = ()
    """Columns of the files, in lower case, that a board tells apart beside the category."""


@dataclass(frozen=True)
class PromptSet:
    """A suite's prompts, read and checked."""

    name: str
    prompts: tuple[Prompt, ...]
    sha256: str
    domain: str
    groups: tuple[str, ...] = ()


def read_suite(suite: Suite, prompts: Path | None = None, *, fetch: bool = True) -> PromptSet:
    """`suite`'s prompts from `prompts` (a folder, or the file of a one-file suite), $TCBENCH_PROMPTS or the
    hub cache, downloaded if `fetch` and the hub can be reached.

    Raises MissingFiles, FileFormatError, or MismatchError where the file holds other prompts than the pinned
    ones.
    """
    files = [_locate(suite, source, prompts, fetch) for source in suite.sources]
    found = suite.read(files)
    sha256 = prompts_sha256(found)
    if (len(found), sha256) != (suite.count, suite.sha256):
        raise MismatchError(
            f"{' + '.join(map(str, files))} holds {len(found)} prompts with sha256 {sha256[:16]}, but suite "
            f"{suite.name} is {suite.count} with {suite.sha256[:16]}: "
            "restore the file, or run it as your own with --suite custom"
        )
    return PromptSet(suite.name, tuple(found), sha256, suite.domain, suite.groups)


def read_custom(prompts: Path | None) -> PromptSet:
    """A user's own prompt file as a suite named after it."""
    if prompts is None:
        raise FileFormatError("suite custom needs --prompts FILE (.txt, .csv, .tsv, .json or .jsonl)")
    if prompts.is_dir():
        raise FileFormatError(f"{prompts} is a folder: give --prompts a file, or --suite the suite it holds")
    found = tuple(read_prompts(prompts))
    return PromptSet(f"custom_{prompts.stem}", found, prompts_sha256(found), "custom")


def is_present(suite: Suite, prompts: Path | None = None) -> bool:
    """Whether all of `suite`'s files are on this machine, without reading or fetching them."""
    return all(_on_disk(source, prompts) is not None for source in suite.sources)


def _locate(suite: Suite, source: PromptSource, prompts: Path | None, fetch: bool) -> Path:
    if prompts is not None and prompts.is_file() and len(suite.sources) > 1:
        names = ", ".join(s.names[0] for s in suite.sources)
        raise MissingFiles(
            f"suite {suite.name} has {len(suite.sources)} files ({names}): give --prompts their folder"
        )
    found, why = _on_disk(source, prompts), ""
    if found is None and fetch and prompts is None and source.hub is not None:
        found, why = _download(source.hub)
    if found is not None:
        return found
    where = f"hub dataset {source.hub[0]}, file {source.hub[1]}" if source.hub else suite.homepage
    cache = "the hub client's cache" if source.hub else f"any folder: {PROMPTS_VARIABLE} is not set"
    searched = prompts or os.environ.get(PROMPTS_VARIABLE) or cache
    about = "; ".join(filter(None, (where, why)))
    raise MissingFiles(
        f"suite {suite.name}: no {' or '.join(source.names)} in {searched} ({about}): "
        f"name the folder that holds it with --prompts PATH or {PROMPTS_VARIABLE}"
    )


def _on_disk(source: PromptSource, prompts: Path | None) -> Path | None:
    """The source's file: `prompts` itself or in it, else in $TCBENCH_PROMPTS, shipped, or cached by the hub
    client.
    """
    variable = os.environ.get(PROMPTS_VARIABLE)
    if prompts is not None and prompts.is_file():
        return prompts
    folder = prompts or (Path(variable) if variable else None)
    for name in source.names if folder else ():
        if folder and (folder / name).is_file():
            return folder / name
    if prompts is not None:
        return None  # what the user points at must not be replaced by something else
    if source.shipped is not None and source.shipped.is_file():
        return source.shipped
    return _cached(source)


def _cached(source: PromptSource) -> Path | None:
    if source.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(*source.hub, repo_type="dataset")
    return Path(cached) if isinstance(cached, str) else None


def _download(source: tuple[str, str]) -> tuple[Path | None, str]:
    """The file fetched from the hub, or None and the reason."""
    offline = hub.offline_reason()
    if offline:
        return None, offline
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(*source, repo_type="dataset")), ""
    except Exception as error:  # the client lets its HTTP library's own errors through
        return None, (str(error).splitlines() or [type(error).__name__])[0]
