"""Locate weights: a given path, this package, the hub's cache or the hub, or a pinned URL. Free of torch.

Located weights must have the published sha256 or, where none is published, the one they had at their first
use (`rewards.weights.lock`).
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rewards.info import RewardInfo, WeightsFile
from rewards.weights import hub
from rewards.weights.lock import WeightsLock
from tcbench.errors import MismatchError, MissingFiles, first_line
from tcbench.files import new_file, visible

_PACKAGE = Path(__file__).resolve().parents[1]


class LocatedWeights(NamedTuple):
    """A file or folder of weights on this machine."""

    path: Path
    origin: str
    """Name in the lock file; empty for weights that are part of the package, which are not locked."""

    def verify(self, info: RewardInfo, file: WeightsFile, digest: str) -> None:
        """Compare the weights with the published sha256, else with that of their first use.

        Weights that are used for the first time are recorded.

        Args:
            info: The reward's record.
            file: One of its weights.
            digest: Their `content_id`.

        Raises:
            MismatchError: If the hashes differ.
        """
        lock = WeightsLock()
        if file.sha256:
            # A converted file is accepted for the checkpoint it was made from; only the lock file, which was
            # written when these very bytes were, can vouch for that.
            if file.sha256 not in (digest, lock.source_of(digest)):
                other_format = self.path.suffix == ".safetensors" and not file.file.endswith(".safetensors")
                raise MismatchError(
                    f"{self.path} is not the published {file.title} of {info.name}: its sha256 is {digest}, "
                    f"expected {file.sha256}; "
                    + (
                        "convert it on this machine: tcbench weights convert"
                        if other_format
                        else "fetch it again"
                    )
                )
        elif self.origin and (recorded := lock.first_use(self.origin, digest)) != digest:
            raise MismatchError(
                f"{self.path} has changed since {info.name} first used it: its sha256 is {digest}, "
                f"recorded is {recorded}; if it was changed on purpose, run tcbench weights verify "
                f"--accept {info.name}, or remove {self.origin!r} from {lock.path}"
            )


def locate_weights(
    info: RewardInfo, weights: Mapping[str, str | Path] | None = None, *, fetch: bool = True
) -> dict[str, Path]:
    """Locate and verify all weights of a reward, without loading them.

    Args:
        info: The reward's record.
        weights: Local copies by key, which take precedence over the environment variables
            TCBENCH_WEIGHTS_<REWARD>_<KEY>, and these over the published source.
        fetch: Download missing files.

    Returns:
        Paths by key.

    Raises:
        MissingFiles: If a file is missing; the message says how to get it.
        MismatchError: If a file does not have the published sha256, or not that of its first use.
        LicenceNotAccepted: If the licence must be accepted first.
        ValueError: If ``weights`` has a key that the reward lacks.
    """
    info.check_consent()
    given = dict(weights or {})
    keys = [file.key for file in info.weights]
    unknown = sorted(set(given) - set(keys))
    if unknown:
        raise ValueError(
            f"{info.name} has no weights called {', '.join(unknown)}; available: {', '.join(keys) or 'none'}"
        )
    return {file.key: _locate_verified(info, file, given.get(file.key), fetch) for file in info.weights}


def locate_file(
    info: RewardInfo, file: WeightsFile, given: str | Path | None = None, *, fetch: bool = False
) -> LocatedWeights:
    """Locate one of a reward's weights, without reading it.

    Raises:
        MissingFiles: If it is missing; the message says how to get it.
    """
    override = given or os.environ.get(_environment_variable(info.name, file.key))
    path, reason = _published_path(file, fetch and not override)
    # A run locates weights once and passes the paths on: the published path given again keeps its origin.
    published = not reason and (not override or Path(override) == path)
    if override:
        path = Path(override)
        reason = "" if path.exists() else f"{path} does not exist"
    reason = reason or _incomplete(file, path)
    if reason:
        remote = not (override or file.package or file.path)
        raise MissingFiles(_how_to_fix(info, file, reason), download=remote)
    if published and file.package:
        return LocatedWeights(path, "")
    return LocatedWeights(path, file.lock_key() if published else file.lock_key(os.path.abspath(path)))


def content_id(file: WeightsFile, path: Path, *, fresh: bool = False) -> str:
    """Return the sha256 of a file, or that of the names and contents of a folder's needed files.

    Args:
        file: The record of the file or folder.
        path: Its path on this machine.
        fresh: Do not use remembered hashes (see `WeightsLock.sha256`).
    """
    lock = WeightsLock()
    if not file.sets:
        return lock.sha256(path, fresh=fresh)
    files = next(_matching(path, patterns) for patterns in file.sets if not _lacking(path, patterns))
    lines = [f"{part.relative_to(path).as_posix()} {lock.sha256(part, fresh=fresh)}" for part in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _environment_variable(name: str, key: str) -> str:
    return "TCBENCH_WEIGHTS_" + re.sub(r"[^A-Z0-9]", "_", f"{name}_{key}".upper())


def _locate_verified(info: RewardInfo, file: WeightsFile, given: str | Path | None, fetch: bool) -> Path:
    located = locate_file(info, file, given, fetch=fetch)
    if file.sha256 or located.origin:
        located.verify(info, file, content_id(file, located.path))
    if file.quick_gelu and not _asks_for_quick_gelu(located.path):
        raise MismatchError(
            f"{located.path} holds OpenAI's weights for {info.name}, but its configuration lacks "
            '"quick_gelu": true; without it every score is wrong: use a revision that has it'
        )
    return located.path


def _incomplete(file: WeightsFile, path: Path) -> str:
    """Return why ``path`` cannot be the file or folder; empty if it can."""
    if not file.sets:
        return "" if path.is_file() else f"{path} is not a file"
    if not path.is_dir():
        return f"{path} is not a folder"
    lacking = min((_lacking(path, patterns) for patterns in file.sets), key=len)
    return f"{path} lacks {', '.join(lacking)}" if lacking else ""


def _asks_for_quick_gelu(folder: Path) -> bool:
    """Return whether a folder in open_clip's or transformers' layout is configured for OpenAI's GELU."""
    path = folder / "open_clip_config.json"
    try:
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))["model_cfg"].get("quick_gelu") is True
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        halves = [config.get(f"{half}_config") or {} for half in ("text", "vision")]
        # transformers' CLIPConfig defaults to quick GELU, so a silent configuration means it.
        return all(half.get("hidden_act", "quick_gelu") == "quick_gelu" for half in halves)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise MismatchError(f"{path} cannot be read ({error!r}); fetch it again") from error


def _published_path(file: WeightsFile, fetch: bool) -> tuple[Path, str]:
    """Return the path of the published file, downloaded if necessary, and why it is missing (else empty)."""
    if file.package:
        path = _PACKAGE / file.package
        return path, "" if path.exists() else f"the installed package lacks rewards/{file.package}"
    if file.path:
        path = Path(file.path).expanduser()
        return path, "" if path.exists() else f"{path} does not exist"
    offline = (
        hub.offline_reason("" if file.hub else file.url) if fetch else "downloads are off for this check"
    )
    try:
        return (_from_hub(file, not offline) if file.hub else _from_url(file, not offline)), ""
    except Exception as error:  # the hub's client does not wrap the errors of its HTTP library
        if offline:
            return Path(), f"not on this machine, and {offline}"
        return Path(), first_line(error)


def _from_hub(file: WeightsFile, fetch: bool) -> Path:
    """Return the file or folder in the hub client's cache, downloaded if ``fetch``."""
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    options: dict[str, Any] = {"revision": file.revision, "local_files_only": not fetch}
    if not file.sets:
        return Path(hf_hub_download(file.hub, file.file, **options))
    patterns = list(file.patterns)
    if not patterns and fetch:  # many repositories hold a model in several layouts; only one is downloaded
        names = list_repo_files(file.hub, revision=file.revision)
        complete = [wanted for wanted in file.layouts if all(fnmatch.filter(names, p) for p in wanted)]
        patterns = list((complete or sorted(file.layouts, key=len))[0])
    return Path(snapshot_download(file.hub, allow_patterns=patterns or None, **options))


def _from_url(file: WeightsFile, fetch: bool) -> Path:
    """Return the file of a pinned URL in the user's cache, downloaded if ``fetch``. Raises OSError."""
    folder = hub.cache_folder() / (file.sha256 or hashlib.sha256(file.url.encode()).hexdigest())[:12]
    target = folder / file.file
    if target.is_file():
        return target
    if not fetch:
        raise FileNotFoundError(target)
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(target) as part:
        with urllib.request.urlopen(file.url, timeout=60) as response, part.open("wb") as out:
            shutil.copyfileobj(response, out)
        # A connection that breaks ends the download without an error.
        if part.stat().st_size != int(response.headers.get("Content-Length") or part.stat().st_size):
            raise OSError(f"the download of {file.url} is incomplete")
        if file.sha256 and WeightsLock().sha256(part) != file.sha256:
            raise OSError(f"{file.url} does not have the published sha256 {file.sha256}")
    return target


def _how_to_fix(info: RewardInfo, file: WeightsFile, reason: str) -> str:
    size = f", {file.megabytes:g} MB" if file.megabytes else ""
    message = f"{info.name} needs its {file.key} ({file.title}{size}): {reason}. "
    local = f"set {_environment_variable(info.name, file.key)} to a local copy"
    if file.hub:
        what = [file.file] if file.file else [f"--include '{pattern}'" for pattern in file.patterns]
        command = " ".join(["hf download", file.hub, *what, "--revision", file.revision])
        return message + f"Download it with {command}, or {local}"
    if file.path:
        return message + f"Give a folder that open_clip or transformers saved, or {local}"
    if file.url:
        return message + f"Download it from {file.url}, or {local}"
    return message + f"Install tcbench again, or {local}"


def _lacking(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Return the patterns that no file of the folder matches."""
    return [pattern for pattern in patterns if not _matching(folder, (pattern,))]


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Return the files of a folder whose relative path matches one of the patterns, sorted."""
    wanted = tuple(patterns)
    files = [p for p in visible(folder.rglob("*")) if p.is_file()] if folder.is_dir() else []
    return [p for p in files if any(fnmatch.fnmatch(p.relative_to(folder).as_posix(), w) for w in wanted)]
