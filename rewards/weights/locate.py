"""Where weights come from: a given path, this package, the hub client's cache or the hub, a pinned URL.

What is found must have the published sha256, or else the one of its first use (`rewards.weights.lock`).
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rewards.info import RewardInfo, WeightsFile, check_consent
from rewards.weights import hub, lock
from tcbench.errors import MismatchError, MissingFiles

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = Path(__file__).resolve().parents[1]

NESTED = "tcbench.nested"
"""In the metadata of a converted file: which first parts of its keys name inner dicts, as a JSON list."""

_hashes: dict[tuple[Path, int, int], str] = {}  # by path, size and time of change


# OSError's own would look for an errno


class Located(NamedTuple):
    """Where weights are, and what they are called in the lock file: nothing if they are of this package."""

    path: Path
    origin: str


def check(
    info: RewardInfo, weights: Mapping[str, str | Path] | None = None, *, fetch: bool = True
) -> dict[str, Path]:
    """Where each of the reward's weights is, by key. Loads none, but downloads what is missing if ``fetch``.

    ``weights`` and the environment (see `variable`) override where a file is looked for. Raises
    `MissingFiles`, `MismatchError` for a file whose sha256 is not the published one, or not that of its
    first use where none is published, and `LicenceNotAccepted`.
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


def locate(
    info: RewardInfo, file: WeightsFile, given: str | Path | None = None, *, fetch: bool = False
) -> Located:
    """Where one of the reward's weights is, without a look into it. Raises `MissingFiles`."""
    elsewhere = given or os.environ.get(variable(info.name, file.key))
    found, reason = _look_up(file, fetch and not elsewhere)
    own = not reason and (not elsewhere or Path(elsewhere) == found)
    if elsewhere:
        found = Path(elsewhere)
        reason = "" if found.exists() else f"nothing at {found}"
    reason = reason or _misfit(file, found)
    if reason:
        raise MissingFiles(_how_to_mend(info, file, reason))
    if own and file.package:
        return Located(found, "")
    return Located(found, lock_name(file) if own else lock_name(file, os.path.abspath(found)))


def lock_name(file: WeightsFile, place: str = "") -> str:
    """What weights are called in the lock file: where they are published, or the ``place`` that was given."""
    origin = place or _origin(file)
    return f"{origin} [{file.title}]" if file.sets else origin


def compare(info: RewardInfo, file: WeightsFile, found: Located, sha256: str) -> None:
    """Check the `content_id` of located weights against the published one, else the one of their first use.

    Raises `MismatchError`. Weights that are used for the first time are recorded.
    """
    if file.sha256:
        if file.sha256 not in (sha256, lock.source_of(sha256)):
            other = found.path.suffix == ".safetensors" and not file.file.endswith(".safetensors")
            raise MismatchError(
                f"{found.path} is not the published {file.title} of {info.name}: its sha256 is {sha256}, "
                f"expected {file.sha256}; "
                + ("make it here from that: tcbench weights convert" if other else "fetch it again")
            )
    elif found.origin and (known := lock.record(found.origin, sha256)) != sha256:
        raise MismatchError(
            f"{found.path} is not what {info.name} used before: its sha256 is {sha256}, recorded is {known}; "
            f"if it was changed on purpose, tcbench weights verify --accept {info.name}, or remove "
            f"{found.origin!r} from {lock.place()}"
        )


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


def content_id(file: WeightsFile, path: Path, *, fresh: bool = False) -> str:
    """sha256 of a file, or of the names and contents of the files that are needed of a folder."""
    if not file.sets:
        return file_sha256(path, fresh=fresh)
    parts = next(_parts(path, patterns) for patterns in file.sets if not _lacking(path, patterns))
    lines = [f"{part.relative_to(path).as_posix()} {file_sha256(part, fresh=fresh)}" for part in parts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_sha256(path: Path, *, fresh: bool = False) -> str:
    """sha256 of a file, computed again if its size or time of change differ, or if it is to be ``fresh``."""
    stat, place = path.stat(), path.resolve()
    settled = lock.is_settled(stat)
    stamp = (place, stat.st_size, stat.st_mtime_ns)
    known = "" if fresh else _hashes.get(stamp) or lock.kept(place, stat)
    if not known:
        with path.open("rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
        if settled:
            lock.keep(place, stat, known)
    _hashes[stamp] = known
    return known


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file or of a torch checkpoint, on the CPU. Raises `MismatchError`.

    A torch checkpoint is read without running code from it and may be nested, such as under "state_dict";
    what `rewards.weights.convert` made of one reads the same.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torn files make the libraries raise nearly anything
        raise MismatchError(f"{path} cannot be read as weights ({_reason(error)}); fetch it again") from error
    if not isinstance(content, Mapping):
        raise MismatchError(
            f"{path} holds a {type(content).__name__}; expected tensors by name, as a state_dict has them"
        )
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        nested = json.loads((file.metadata() or {}).get(NESTED, "[]"))
    content: dict[str, Any] = {name: {} for name in nested}
    for key, tensor in tensors.items():
        outer, _, inner = key.partition(".")
        target, name = (content[outer], inner) if outer in nested else (content, key)
        target[name] = tensor
    return content


def _reason(error: Exception) -> str:
    """One line on why a file is unreadable; torch's own advice is to run the code in it."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code:
        return f"it asks to run {code[1]}, which weights must not"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(". ")[0] if lines else type(error).__name__


def read_folder(folder: Path) -> dict[str, Any]:
    """The tensors in a folder of transformers' layout: one file, or the parts that its index names.

    Raises `MismatchError`.
    """
    whole, index = ("model.safetensors", "pytorch_model.bin"), next(folder.glob("*.index.json"), None)
    if index is None:
        names = [name for name in whole if (folder / name).is_file()][:1]
    else:
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MismatchError(f"{index} is no index of weights ({error!r}); fetch it again") from error
    if not names:
        raise MismatchError(f"{folder} has no weights; expected {' or '.join(whole)}, or an index of parts")
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise MismatchError(f"{folder} lacks {', '.join(lacking)}, which its index names; fetch it again")
    return {key: value for name in names for key, value in read_tensors(folder / name).items()}


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], source: Path, ignore: Iterable[str] = ()
) -> None:
    """Put ``state`` into ``module``, every key of it, in the module's own precision.

    Raises `MismatchError`, which names what does not fit.
    ``ignore`` lists endings of keys that carry no weights, such as stored position numbers.
    """
    endings = tuple(ignore)
    given = {key: value for key, value in state.items() if not (endings and str(key).endswith(endings))}
    own = module.state_dict()
    wrong = dict.fromkeys(own.keys() - given.keys(), "missing")
    wrong |= dict.fromkeys(given.keys() - own.keys(), "not expected")
    for key in own.keys() & given.keys():
        shape = getattr(given[key], "shape", None)
        if shape is None:
            wrong[key] = f"a {type(given[key]).__name__}, not a tensor"
        elif shape != own[key].shape:
            wrong[key] = f"shape {tuple(shape)}, not {tuple(own[key].shape)}"
    if wrong:
        raise misfit(source, type(module), wrong)
    module.load_state_dict(given)


def misfit(source: Path, architecture: type[Any], wrong: Mapping[str, str]) -> MismatchError:
    """The error that says what is wrong with which key of ``source``."""
    shown = "; ".join(f"{key}: {what}" for key, what in sorted(wrong.items(), key=str)[:4])
    more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return MismatchError(f"{source} does not fit {architecture.__name__}: {shown}{more}")


def _find(info: RewardInfo, file: WeightsFile, given: str | Path | None, fetch: bool) -> Path:
    found = locate(info, file, given, fetch=fetch)
    if file.sha256 or found.origin:
        compare(info, file, found, content_id(file, found.path))
    if file.quick_gelu and not _asks_for_quick_gelu(found.path):
        raise MismatchError(
            f"{found.path} holds OpenAI's weights for {info.name}, but its configuration does not ask for "
            'their activation, "quick_gelu": true; without it every score is wrong: take a revision that does'
        )
    return found.path


def _misfit(file: WeightsFile, found: Path) -> str:
    """Why what is at ``found`` cannot be the file or folder; empty if it can."""
    if not file.sets:
        return "" if found.is_file() else f"{found} is not a file"
    if not found.is_dir():
        return f"{found} is not a folder"
    lacking = min((_lacking(found, patterns) for patterns in file.sets), key=len)
    return f"{found} lacks {', '.join(lacking)}" if lacking else ""


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
        raise MismatchError(f"{path} cannot be read ({error!r}); fetch it again") from error


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
    place = hub.cache_folder() / (file.sha256 or hashlib.sha256(file.url.encode()).hexdigest())[:12]
    target = place / file.file
    if target.is_file():
        return target
    if not fetch:
        raise FileNotFoundError(target)
    place.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        with urllib.request.urlopen(file.url, timeout=60) as response, part.open("wb") as out:
            shutil.copyfileobj(response, out)
        # a dropped line ends a download early and says nothing
        if part.stat().st_size != int(response.headers.get("Content-Length") or part.stat().st_size):
            raise OSError(f"{file.url} gave less than the whole file")
        if file.sha256 and file_sha256(part) != file.sha256:
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
