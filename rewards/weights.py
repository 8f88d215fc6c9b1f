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
    return f"{file.hub}@{file.revision}/{file.file}".rstrip("/") if file.hub else file.url


def content_id(file: WeightsFile, path: Path) -> str:
    """sha256 of a file, or of the names and contents of the files that are needed of a folder."""
    if not file.patterns:
        return file_sha256(path)
    lines = [
        f"{part.relative_to(path).as_posix()} {file_sha256(part)}" for part in _parts(path, file.patterns)
    ]
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


def read_folder(folder: Path) -> dict[str, Any]:
    """The tensors in a folder of transformers' layout: one file, or the parts that its index names.

    Raises `WrongWeights`.
    """
    whole, index = ("model.safetensors", "pytorch_model.bin"), next(folder.glob("*.index.json"), None)
    if index is None:
        names = [name for name in whole if (folder / name).is_file()][:1]
    else:
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise WrongWeights(f"{index} is no index of weights ({error!r}); fetch it again") from error
    if not names:
        raise WrongWeights(f"{folder} has no weights; expected {' or '.join(whole)}, or an index of parts")
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise WrongWeights(f"{folder} lacks {', '.join(lacking)}, which its index names; fetch it again")
    return {key: value for name in names for key, value in read_tensors(folder / name).items()}


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
    if not reason and file.patterns:
        lacking = [p for p in file.patterns if not _parts(found, (p,))]
        reason = f"{found} lacks {', '.join(lacking)}" if lacking else ""
    if not reason and not file.patterns and not found.is_file():
        reason = f"{found} is not a file"
    if reason:
        raise MissingWeights(_how_to_mend(info, file, reason))
    if file.sha256 and content_id(file, found) != file.sha256:
        raise WrongWeights(
            f"{found} is not the published {file.title} of {info.name}: "
            f"its sha256 is {content_id(file, found)}, expected {file.sha256}; fetch it again"
        )
    return found


def _look_up(file: WeightsFile, fetch: bool) -> tuple[Path, str]:
    """Where the file is or was put, and why it is not there (empty if it is)."""
    if file.package:
        found = PACKAGE / file.package
        return found, "" if found.exists() else f"the installed package lacks rewards/{file.package}"
    offline = hub.barrier("" if file.hub else file.url) if fetch else "nothing is downloaded now"
    try:
        return (_from_hub(file, not offline) if file.hub else _from_url(file, not offline)), ""
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        if offline:
            return Path(), f"it is not on this machine, and {offline}"
        return Path(), (str(error).splitlines() or [type(error).__name__])[0]


def _from_hub(file: WeightsFile, fetch: bool) -> Path:
    """The file or folder in the hub client's cache, downloaded if need be."""
    from huggingface_hub import hf_hub_download, snapshot_download

    where: dict[str, Any] = {"revision": file.revision, "local_files_only": not fetch}
    if file.patterns:
        return Path(snapshot_download(file.hub, allow_patterns=list(file.patterns), **where))
    return Path(hf_hub_download(file.hub, file.file, **where))


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
        what = file.file or " ".join(f"--include '{pattern}'" for pattern in file.patterns)
        return message + f"Fetch it, hf download {file.hub} {what} --revision {file.revision}, or {point}"
    if file.url:
        return message + f"Fetch it from {file.url}, or {point}"
    return message + f"Install tcbench again, or {point}"


def _parts(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Files of a folder whose path below it matches one of the patterns, in order of their names."""
    wanted = tuple(patterns)
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    return [p for p in files if any(fnmatch.fnmatch(p.relative_to(folder).as_posix(), w) for w in wanted)]


@lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
