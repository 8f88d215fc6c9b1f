"""Where weights come from: a given path, this package, the hub client's cache or the hub, a pinned URL.

Free of torch until tensors are read.
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
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards import hub
from rewards.info import RewardInfo, WeightsFile, check_consent

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = Path(__file__).parent


class MissingWeights(ValueError, FileNotFoundError):
    """Weights that are not on this machine, with what to fetch and how to point at a local copy."""

    __str__ = ValueError.__str__  # OSError's own would look for an errno


class WrongWeights(ValueError):
    """Weights that are there but are not the published ones, or do not fit the model."""


def check(
    info: RewardInfo, weights: Mapping[str, str | Path] | None = None, *, fetch: bool = True
) -> dict[str, Path]:
    """Where each of the reward's weights is, by key. Loads none, but downloads what is missing if ``fetch``.

    ``weights`` and the environment (see `variable`) override where a file is looked for. Raises
    `MissingWeights`, `WrongWeights` for a file whose sha256 is not the published one, and
    `LicenceNotAccepted`.
    """
    check_consent(info)
    given = dict(weights or {})
    keys = [file.key for file in info.weights]
    unknown = sorted(set(given) - set(keys))
    if unknown:
        raise ValueError(
            f"{info.name} has no weights called {', '.join(unknown)}; it has {', '.join(keys) or 'none'}"
        )
    return {file.key: _find(info, file, given.get(file.key), fetch) for file in info.weights}


def variable(name: str, key: str) -> str:
    """The environment variable that points at a local copy: TCBENCH_WEIGHTS_<REWARD>_<KEY>."""
    return "TCBENCH_WEIGHTS_" + re.sub(r"[^A-Z0-9]", "_", f"{name}_{key}".upper())


def provenance(info: RewardInfo, files: Mapping[str, Path]) -> dict[str, str]:
    """For each of the reward's weights where it is published and the sha256 of what was found, as text."""
    return {file.key: f"{_origin(file)} sha256:{content_id(file, files[file.key])}" for file in info.weights}


def _origin(file: WeightsFile) -> str:
    if file.package:
        return f"rewards/{file.package}"
    return f"{file.hub}@{file.revision}/{file.file}".rstrip("/") if file.hub else file.path or file.url


def content_id(file: WeightsFile, path: Path) -> str:
    """sha256 of a file, or of the names and contents of the files that are needed of a folder."""
    if not file.sets:
        return file_sha256(path)
    parts = next(_parts(path, patterns) for patterns in file.sets if not _lacking(path, patterns))
    lines = [f"{part.relative_to(path).as_posix()} {file_sha256(part)}" for part in parts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file, computed again only if its size or time of change differ."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file or of a torch checkpoint, on the CPU. Raises `WrongWeights`.

    A torch checkpoint is read without running code from it and may be nested, such as under "state_dict".
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WrongWeights(f"{path} cannot be read as weights ({reason}); fetch it again") from error


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], source: Path, ignore: Iterable[str] = ()
) -> None:
    """Put ``state`` into ``module``, every key of it, in the module's own precision.

    Raises `WrongWeights`, which names what does not fit.
    ``ignore`` lists endings of keys that carry no weights, such as stored position numbers.
    """
    endings = tuple(ignore)
    given = {key: value for key, value in state.items() if not (endings and key.endswith(endings))}
    own = module.state_dict()
    wrong = dict.fromkeys(own.keys() - given.keys(), "missing")
    wrong |= dict.fromkeys(given.keys() - own.keys(), "not expected")
    wrong |= {
        key: f"shape {tuple(given[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & given.keys()
        if given[key].shape != own[key].shape
    }
    if wrong:
        shown = "; ".join(f"{key}: {what}" for key, what in sorted(wrong.items())[:4])
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise WrongWeights(f"{source} does not fit {type(module).__name__}: {shown}{more}")
    module.load_state_dict(given)


def _find(info: RewardInfo, file: WeightsFile, given: str | Path | None, fetch: bool) -> Path:
    path = given or os.environ.get(variable(info.name, file.key))
    if path:
        found = Path(path)
        reason = f"nothing at {found}" if not found.exists() else ""
    else:
        found, reason = _look_up(file, fetch)
    if not reason and file.sets:
        lacking = min((_lacking(found, patterns) for patterns in file.sets), key=len)
        reason = f"{found} lacks {', '.join(lacking)}" if lacking else ""
    if not reason and not file.sets and not found.is_file():
        reason = f"{found} is not a file"
    if reason:
        raise MissingWeights(_how_to_mend(info, file, reason))
    if file.sha256 and content_id(file, found) != file.sha256:
        raise WrongWeights(
            f"{found} is not the published {file.title} of {info.name}: "
            f"its sha256 is {content_id(file, found)}, expected {file.sha256}; fetch it again"
        )
    if file.quick_gelu and not _asks_for_quick_gelu(found):
        raise WrongWeights(
            f"{found} holds OpenAI's weights for {info.name}, but its configuration does not ask for their "
            'activation, "quick_gelu": true; without it every score is wrong: take a revision that does'
        )
    return found


def _asks_for_quick_gelu(folder: Path) -> bool:
    """Whether the configuration in a folder of open_clip's or transformers' layout asks for OpenAI's GELU."""
    path = folder / "open_clip_config.json"
    try:
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))["model_cfg"].get("quick_gelu") is True
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        halves = [config.get(f"{half}_config") or {} for half in ("text", "vision")]
        # a CLIPConfig that does not say means quick ones
        return all(half.get("hidden_act", "quick_gelu") == "quick_gelu" for half in halves)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WrongWeights(f"{path} cannot be read ({error!r}); fetch it again") from error


def _look_up(file: WeightsFile, fetch: bool) -> tuple[Path, str]:
    """Where the file is or was put, and why it is not there (empty if it is)."""
    if file.package:
        found = PACKAGE / file.package
        return found, "" if found.exists() else f"the installed package lacks rewards/{file.package}"
    if file.path:
        found = Path(file.path).expanduser()
        return found, "" if found.exists() else f"nothing at {found}"
    offline = hub.barrier("" if file.hub else file.url) if fetch else "nothing is downloaded now"
    try:
        return (_from_hub(file, not offline) if file.hub else _from_url(file, not offline)), ""
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        if offline:
            return Path(), f"it is not on this machine, and {offline}"
        return Path(), (str(error).splitlines() or [type(error).__name__])[0]


def _from_hub(file: WeightsFile, fetch: bool) -> Path:
    """The file or folder in the hub client's cache, downloaded if need be."""
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    where: dict[str, Any] = {"revision": file.revision, "local_files_only": not fetch}
    if not file.sets:
        return Path(hf_hub_download(file.hub, file.file, **where))
    patterns = list(file.patterns)
    if file.layouts and fetch:  # many repositories hold a model in several layouts: only one is fetched
        there = list_repo_files(file.hub, revision=file.revision)
        whole = [wanted for wanted in file.layouts if all(fnmatch.filter(there, p) for p in wanted)]
        patterns = list((whole or sorted(file.layouts, key=len))[0])
    return Path(snapshot_download(file.hub, allow_patterns=patterns or None, **where))


def _from_url(file: WeightsFile, fetch: bool) -> Path:
    """The file behind a pinned URL, kept in the user's cache. Raises OSError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tcbench" / file.sha256[:12]
    target = cache / file.file
    if target.is_file():
        return target
    if not fetch:
        raise FileNotFoundError(target)
    cache.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        with urllib.request.urlopen(file.url, timeout=60) as response, part.open("wb") as out:
            shutil.copyfileobj(response, out)
        if file_sha256(part) != file.sha256:  # a dropped line ends a download early and says nothing
            raise OSError(f"{file.url} gave something else than the published file")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _how_to_mend(info: RewardInfo, file: WeightsFile, reason: str) -> str:
    size = f", {file.megabytes:g} MB" if file.megabytes else ""
    message = f"{info.name} needs its {file.key} ({file.title}{size}): {reason}. "
    point = f"set {variable(info.name, file.key)} to a local copy"
    if file.hub:
        what = [file.file] if file.file else [f"--include '{pattern}'" for pattern in file.patterns]
        command = " ".join(["hf download", file.hub, *what, "--revision", file.revision])
        return message + f"Fetch it, {command}, or {point}"
    if file.path:
        return message + f"Give a folder that open_clip or transformers saved, or {point}"
    if file.url:
        return message + f"Fetch it from {file.url}, or {point}"
    return message + f"Install tcbench again, or {point}"


def _lacking(folder: Path, patterns: Iterable[str]) -> list[str]:
    """The patterns that no file of the folder matches."""
    return [pattern for pattern in patterns if not _parts(folder, (pattern,))]


def _parts(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Files of a folder whose path below it matches one of the patterns, in order of their names."""
    wanted = tuple(patterns)
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    return [p for p in files if any(fnmatch.fnmatch(p.relative_to(folder).as_posix(), w) for w in wanted)]


@lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
