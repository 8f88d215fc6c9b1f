"""Finding rewards by name: built-in, registered in this process, installed as a plug-in, or in a Python file.

Free of torch: a reward's class is imported when it is loaded, not when it is listed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from rewards.builtin import BUILTIN, CLIPSCORES, by_another_model
from rewards.info import RewardInfo
from tcbench.errors import UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from rewards.base import Reward

GROUP = "tcbench.rewards"
"""Entry points of this group are rewards: each names a `Reward` class or, to list fast, a `RewardInfo`."""

DTYPES = ("float32", "float64", "bfloat16", "float16")
"""Precisions that a reward can be loaded in."""

Class = TypeVar("Class", bound="type[Reward]")

_registered: dict[str, RewardInfo] = {}
_classes: dict[str, type[Reward]] = {}  # by entry
_modules: dict[Path, str] = {}  # of files outside any package, by path


def names() -> list[str]:
    """The names of all rewards: the built-in ones in their own order, then the others by name."""
    return [*BUILTIN, *sorted({*_registered, *_plugins()} - set(BUILTIN))]


def info(name: str) -> RewardInfo:
    """The record of a reward, by its name, as ``file.py:Class``, or as ``clip:model`` (`by_another_model`).

    Raises `UnknownName`.
    """
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        return _info_in_file(Path(path), attribute)
    if name in BUILTIN:
        return BUILTIN[name]
    convention, colon, model = name.partition(":")
    if colon and convention in CLIPSCORES and model:
        return by_another_model(BUILTIN[convention], model)
    if name in _registered:
        return _registered[name]
    plugins = _plugins()
    if name in plugins:
        return _info_of_plugin(plugins[name])
    raise UnknownName("reward", name, names())


def load(
    name: str | RewardInfo,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    weights: Mapping[str, str | Path] | None = None,
) -> Reward:
    """A reward ready to score on ``device`` in ``dtype`` ("float32" unless there is a reason).

    ``weights`` maps keys of the record's weights to local copies. Raises `UnknownName` for a reward or a
    precision that there is not, or `MissingWeights` with what to fetch and from where.
    """
    if dtype not in DTYPES:
        raise UnknownName("precision", dtype, DTYPES)
    import torch

    from rewards.weights.locate import check

    record = info(name) if isinstance(name, str) else name
    files = check(record, weights)
    reward = _class(record)(record, files)
    return reward.to(device=device, dtype=getattr(torch, dtype))


def score(name: str, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None) -> Tensor:
    """Scores (B,) of images by a reward that is loaded for this call alone; see `Reward.score`."""
    return load(name).score(images, prompts)


def register(record: RewardInfo, cls: type[Reward] | None = None) -> Callable[[Class], Class]:
    """Make a reward known by its name: ``@register(RewardInfo(...))`` on a class, or ``register(info, cls)``.

    A record that names its class by ``entry`` can be registered alone, so that the class is imported on use.
    Raises ValueError if another reward has the name.
    """

    def add(decorated: Class) -> Class:
        entry = f"{decorated.__module__}:{decorated.__qualname__}"
        _add(replace(record, entry=entry))
        _classes[entry] = decorated
        return decorated

    if cls is not None:
        add(cls)
    elif record.entry:
        _add(record)
    return add


def _add(record: RewardInfo) -> None:
    known, point = _registered.get(record.name), _plugins().get(record.name)
    taken = record.name in BUILTIN or (known is not None and known.entry != record.entry)
    # a package that offers a reward by an entry point may also register it where it is defined
    if taken or (point is not None and _package(point.value) != _package(record.entry)):
        raise ValueError(f"there is a reward called {record.name!r} already; give yours another name")
    _registered[record.name] = record


def _package(entry: str) -> str:
    """The top-level package of "module:name"."""
    return entry.partition(":")[0].partition(".")[0]


def _class(record: RewardInfo) -> type[Reward]:
    """The class of a record, imported. Raises ValueError for an entry that is no `Reward` class."""
    from rewards.base import Reward

    if record.entry in _classes:
        return _classes[record.entry]
    where, _, attribute = record.entry.rpartition(":")
    found: Any = _module_in_file(Path(where)) if where.endswith(".py") else import_module(where)
    for part in attribute.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Reward)):
        raise ValueError(f"{record.entry} is no reward: expected a class that extends rewards.Reward")
    return found


def _plugins() -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=GROUP)}
    for name in set(BUILTIN) & set(found):
        raise ValueError(f"the plug-in {found[name].value} takes the name of the built-in reward {name!r}")
    return found


def _info_of_plugin(point: EntryPoint) -> RewardInfo:
    """The record of a plug-in, under its entry point's name; its package's version is an option, so that an
    upgrade changes the score's id. Raises ValueError if it cannot be imported.
    """
    try:
        found = point.load()
    except Exception as error:  # whatever a stranger's module raises, the message is about that module
        raise ValueError(
            f"the reward plug-in {point.name} = {point.value} cannot be imported: {error}"
        ) from error
    record = found if isinstance(found, RewardInfo) else replace(_record_of(found), entry=point.value)
    version = {"package": f"{point.dist.name} {point.dist.version}"} if point.dist else {}
    return replace(record, name=point.name, options={**record.options, **version})


def _info_in_file(path: Path, attribute: str) -> RewardInfo:
    """The record of class ``attribute`` in a file, whose hash is an option so that an edit changes the id."""
    module = _module_in_file(path)
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        own = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise UnknownName(f"class in {path}", attribute, own)
    record = _record_of(found)
    options = {**record.options, "source": _sha256(path)[:12]}
    return replace(record, entry=f"{path}:{attribute}", options=options)


def _record_of(cls: type) -> RewardInfo:
    """The record that a class was registered with, or a plain one under its own name."""
    entry = f"{cls.__module__}:{cls.__qualname__}"
    return next((r for r in _registered.values() if r.entry == entry), RewardInfo(cls.__name__))


def _module_in_file(path: Path) -> ModuleType:
    """The module in a file outside any package, run once for each content.

    What an earlier content of the file registered is forgotten.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}: a reward of your own is given as file.py:Class")
    name = f"tcbench_file_{_sha256(path)}"
    before = _modules.get(path.resolve(), name)
    _modules[path.resolve()] = name
    if before not in {own for file, own in _modules.items() if file.is_file()}:
        for stale in [n for n, record in _registered.items() if record.entry.startswith(f"{before}:")]:
            del _registered[stale]
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        assert spec is not None, "a .py file has a loader"
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):
                raise
            raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return sys.modules[name]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
