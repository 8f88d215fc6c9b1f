"""Records of prompt suites; find their files and check them against pinned hashes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rewards.weights import hub
from tcbench.errors import FileFormatError, MismatchError, MissingFiles, first_line
from textcraftor.diffusion.prompts import Prompt, prompts_sha256, read_prompts

PROMPTS_VARIABLE = "TCBENCH_PROMPTS"
"""Environment variable with a folder of prompt files."""


@dataclass(frozen=True)
class SuiteFile:
    """One prompt file of a suite."""

    names: tuple[str, ...]
    """File names to look for in a folder, in order of preference."""
    hub: tuple[str, str] | None = None
    """Dataset id and file name on the hub."""
    shipped: Path | None = None
    """Path of the file in this package."""


@dataclass(frozen=True)
class Suite:
    """A pinned set of prompts."""

    name: str
    """Name for `--suite`."""
    title: str
    """One-line description."""
    count: int
    """Number of prompts."""
    sha256: str
    """Hash of its canonical prompts in order (`prompts_sha256`), not of the bytes of its files."""
    files: tuple[SuiteFile, ...]
    """Files that hold the prompts."""
    read: Callable[[Sequence[Path]], list[Prompt]]
    """Reads the prompts from the paths of ``files``."""
    domain: str
    """"open" for prompts about anything, else the name of the world they are about."""
    homepage: str
    """URL of the source."""
    licence: str
    """Licence of the prompts."""
    groups: tuple[str, ...] = ()
    """Columns of the files, in lower case, by which a board groups prompts, in addition to the category."""

    def load(self, prompts: Path | None = None, *, fetch: bool = True) -> PromptSet:
        """Read the prompts and check them against the hash.

        Args:
            prompts: A folder with its files, or the file of a suite of one file; None: $TCBENCH_PROMPTS, the
                package, or the hub client's cache.
            fetch: Download missing files if the hub can be reached.

        Raises:
            MissingFiles: If a file is not found.
            FileFormatError: If a file cannot be read as prompts.
            MismatchError: If the files hold other prompts than the pinned ones.
        """
        paths = [_locate(self, file, prompts, fetch) for file in self.files]
        read = self.read(paths)
        sha256 = prompts_sha256(prompt.text for prompt in read)
        if (len(read), sha256) != (self.count, self.sha256):
            raise MismatchError(
                f"{' + '.join(map(str, paths))} holds {len(read)} prompts with sha256 {sha256[:16]}, but "
                f"suite {self.name} has {self.count} with {self.sha256[:16]}; "
                "restore the file, or use it as your own with --suite custom"
            )
        return PromptSet(self.name, tuple(read), sha256, self.domain, self.groups)

    def is_present(self) -> bool:
        """Return whether all files are on this machine; they are not read or downloaded."""
        return all(_on_disk(file, None) is not None for file in self.files)


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a suite, read and checked."""

    name: str
    prompts: tuple[Prompt, ...]
    sha256: str
    domain: str
    groups: tuple[str, ...] = ()

    @staticmethod
    def from_file(prompts: Path | None) -> PromptSet:
        """Read a user's prompt file as a suite that is named after the file.

        Raises:
            FileFormatError: If no file is given, or it cannot be read as prompts.
        """
        if prompts is None:
            raise FileFormatError("suite custom needs --prompts FILE (.txt, .csv, .tsv, .json or .jsonl)")
        if prompts.is_dir():
            raise FileFormatError(
                f"{prompts} is a folder; give --prompts a file, or --suite the name of its suite"
            )
        read = tuple(read_prompts(prompts))
        return PromptSet(
            f"custom_{prompts.stem}", read, prompts_sha256(prompt.text for prompt in read), "custom"
        )


def _locate(suite: Suite, file: SuiteFile, prompts: Path | None, fetch: bool) -> Path:
    """Return the path of a suite's file.

    Raises:
        MissingFiles: If it is not found; the message says where it was searched and where to get it.
    """
    if prompts is not None and prompts.is_file() and len(suite.files) > 1:
        names = ", ".join(one.names[0] for one in suite.files)
        raise MissingFiles(
            f"suite {suite.name} has {len(suite.files)} files ({names}); give --prompts their folder"
        )
    path, reason = _on_disk(file, prompts), ""
    if path is None and fetch and prompts is None and file.hub is not None:
        path, reason = _download(file.hub)
    if path is not None:
        return path
    origin = f"hub dataset {file.hub[0]}, file {file.hub[1]}" if file.hub else suite.homepage
    cache = "the hub client's cache" if file.hub else f"any folder ({PROMPTS_VARIABLE} is not set)"
    searched = prompts or os.environ.get(PROMPTS_VARIABLE) or cache
    details = "; ".join(filter(None, (origin, reason)))
    raise MissingFiles(
        f"suite {suite.name}: {' or '.join(file.names)} not found in {searched} ({details}); "
        f"give its folder with --prompts PATH or {PROMPTS_VARIABLE}",
        download=file.hub is not None and prompts is None,
    )


def _on_disk(file: SuiteFile, prompts: Path | None) -> Path | None:
    """Return the path of a file: ``prompts`` itself or in it, else in other folders and caches."""
    variable = os.environ.get(PROMPTS_VARIABLE)
    if prompts is not None and prompts.is_file():
        return prompts
    folder = prompts or (Path(variable) if variable else None)
    for name in file.names if folder else ():
        if folder and (folder / name).is_file():
            return folder / name
    if prompts is not None:
        return None  # never another file than the one the user gave
    if file.shipped is not None and file.shipped.is_file():
        return file.shipped
    return _cached(file)


def _cached(file: SuiteFile) -> Path | None:
    if file.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(*file.hub, repo_type="dataset")
    return Path(cached) if isinstance(cached, str) else None


def _download(source: tuple[str, str]) -> tuple[Path | None, str]:
    """Download a file from the hub; return its path, or None and the reason."""
    offline = hub.offline_reason()
    if offline:
        return None, offline
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(*source, repo_type="dataset")), ""
    except Exception as error:  # the client does not wrap the errors of its HTTP library
        return None, first_line(error)
