"""Rewards by name: built-in, registered in this process, installed as plug-ins, or in a Python file.

Free of torch: a reward's class is imported when the reward is loaded, not when it is listed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from rewards.builtin import BUILTIN, CLIPSCORES, clipscore_by_model
from rewards.info import RewardInfo
from tcbench.declarations import CUSTOM_PREFIX
from tcbench.errors import ConfigError, TcbenchError, UnknownName
from tcbench.files import sha256

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from rewards.base import Reward

GROUP = "tcbench.rewards"
"""Entry point group of reward plug-ins. Each entry point names a `Reward` class or a `RewardInfo`; the latter
lists without importing torch."""

DTYPES = ("float32", "float64", "bfloat16", "float16")
"""Precisions in which a reward can be loaded."""

_RewardClass = TypeVar("_RewardClass", bound="type[Reward]")

_registered: dict[str, RewardInfo] = {}
_classes: dict[str, type[Reward]] = {}  # by entry
_file_modules: dict[Path, str] = {}  # module names of reward files, by path


def list_rewards() -> list[str]:
    """Return the names of all rewards: built-in ones in their own order, then the others sorted.

    Example:
        >>> import rewards
        >>> "imagereward" in rewards.list()
        True
    """
    return [*BUILTIN, *sorted({*_registered, *_plugins()} - set(BUILTIN))]


def info(name: str) -> RewardInfo:
    """Return the record of a reward, without loading it.

    Args:
        name: A name of `list_rewards`, ``file.py:Class``, or ``clip:MODEL`` (`clipscore_by_model`).

    Raises:
        UnknownName: If there is no such reward.
        ConfigError: If the name is a declaration of a custom reward.

    Example:
        >>> import rewards
        >>> rewards.info("hpsv2").licence
        'Apache-2.0'
    """
    if name.startswith(CUSTOM_PREFIX):
        raise ConfigError(
            f"{name!r} only declares that a system was trained on a custom reward; give the reward itself as "
            "file.py:Class"
        )
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        return _info_in_file(Path(path), attribute)
    if name in BUILTIN:
        return BUILTIN[name]
    convention, colon, model = name.partition(":")
    if colon and convention in CLIPSCORES and model:
        return clipscore_by_model(BUILTIN[convention], model)
    if name in _registered:
        return _registered[name]
    plugins = _plugins()
    if name in plugins:
        return _info_of_plugin(plugins[name])
    raise UnknownName("reward", name, list_rewards(), listing="tcbench ls rewards")


def load(
    name: str | RewardInfo,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    weights: Mapping[str, str | Path] | None = None,
) -> Reward:
    """Load a reward.

    Args:
        name: The name of a reward (see `info`), or its record.
        device: Where scores are computed, such as "cuda".
        dtype: Precision of the model, one of `DTYPES`. Half precision can make scores tie.
        weights: Local copies of weights by key of the record's weights.

    Returns:
        The reward, frozen and in evaluation mode.

    Raises:
        UnknownName: If the reward or the precision does not exist.
        MissingFiles: If weights are missing; the message says how to get them.
        MismatchError: If weights are not the published ones, or do not fit the model.

    Example:
        >>> import rewards
        >>> reward = rewards.load("world-clip")
        >>> reward.info.scale
        '100 x cosine'
    """
    if dtype not in DTYPES:
        raise UnknownName("precision", dtype, DTYPES)
    import torch

    from rewards.weights.locate import locate_weights

    record = info(name) if isinstance(name, str) else name
    files = locate_weights(record, weights)
    reward = _reward_class(record)(record, files)
    return reward.to(device=device, dtype=getattr(torch, dtype))


def score(name: str, images: Tensor | Sequence[Image], prompts: Sequence[str] | None = None) -> Tensor:
    """Load a reward for this call alone and return its scores (B,); see `load` and `Reward.score`.

    Example:
        >>> import torch, rewards
        >>> rewards.score("world-rule", torch.rand(2, 3, 64, 64)).shape
        torch.Size([2])
    """
    return load(name).score(images, prompts)


def register(record: RewardInfo, cls: type[Reward] | None = None) -> Callable[[_RewardClass], _RewardClass]:
    """Add a reward to this process: ``@register(RewardInfo(...))`` on a class, or ``register(record, cls)``.

    A record that names its class by ``entry`` can be registered alone; the class is then imported on use.

    Raises:
        ConfigError: If another reward has the name.
    """

    def add(decorated: _RewardClass) -> _RewardClass:
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
    existing, point = _registered.get(record.name), _plugins().get(record.name)
    taken = record.name in BUILTIN or (existing is not None and existing.entry != record.entry)
    # A package that offers a reward by an entry point may also register it where the class is defined.
    if taken or (point is not None and _top_package(point.value) != _top_package(record.entry)):
        raise ConfigError(f"a reward named {record.name!r} exists already; choose another name")
    _registered[record.name] = record


def _top_package(entry: str) -> str:
    """Return the top-level package of "module:name"."""
    return entry.partition(":")[0].partition(".")[0]


def _reward_class(record: RewardInfo) -> type[Reward]:
    from rewards.base import Reward

    if record.entry in _classes:
        return _classes[record.entry]
    module, _, attribute = record.entry.rpartition(":")
    cls: Any = _module_of_file(Path(module)) if module.endswith(".py") else import_module(module)
    for name in attribute.split("."):
        cls = getattr(cls, name)
    if not (isinstance(cls, type) and issubclass(cls, Reward)):
        raise TcbenchError(f"{record.entry} is not a reward; expected a class that extends rewards.Reward")
    return cls


def _plugins() -> dict[str, EntryPoint]:
    points = {point.name: point for point in entry_points(group=GROUP)}
    for name in set(BUILTIN) & set(points):
        raise ConfigError(
            f"the plug-in {points[name].value} has the name of the built-in reward {name!r}; "
            "uninstall or rename it"
        )
    return points


def _info_of_plugin(point: EntryPoint) -> RewardInfo:
    """Return the record of a plug-in, under its entry point's name.

    The package's version is added to the options, so that an upgrade changes the score id.
    """
    try:
        target = point.load()
    except Exception as error:  # a plug-in's module may raise anything
        raise TcbenchError(
            f"the reward plug-in {point.name} = {point.value} cannot be imported: {error}"
        ) from error
    record = target if isinstance(target, RewardInfo) else replace(_record_of(target), entry=point.value)
    version = {"package": f"{point.dist.name} {point.dist.version}"} if point.dist else {}
    return replace(record, name=point.name, options={**record.options, **version})


def _info_in_file(path: Path, attribute: str) -> RewardInfo:
    """Return the record of a class in a file. The file's hash is an option: an edit changes the score id."""
    module = _module_of_file(path)
    cls = getattr(module, attribute, None)
    if not isinstance(cls, type):
        names = [
            n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__
        ]
        raise UnknownName("class", attribute, names, source=str(path))
    record = _record_of(cls)
    options = {**record.options, "source": sha256(path)[:12]}
    return replace(record, entry=f"{path}:{attribute}", options=options)


def _record_of(cls: type) -> RewardInfo:
    """Return the record a class was registered with, or a default one under its own name."""
    entry = f"{cls.__module__}:{cls.__qualname__}"
    return next((r for r in _registered.values() if r.entry == entry), RewardInfo(cls.__name__))


def _module_of_file(path: Path) -> ModuleType:
    """Return the module of a reward file; it is run once for each content of the file."""
    if not path.is_file():
        raise TcbenchError(f"{path} does not exist; give a reward in a file as file.py:Class")
    # Named by content, so that an edited file is run again and an unchanged one is not.
    name = f"tcbench_file_{sha256(path)}"
    previous = _file_modules.get(path.resolve(), name)
    _file_modules[path.resolve()] = name
    # What an earlier content registered is forgotten, unless another file still has that content.
    if previous not in {module for file, module in _file_modules.items() if file.is_file()}:
        for stale in [n for n, record in _registered.items() if record.entry.startswith(f"{previous}:")]:
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
            raise TcbenchError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return sys.modules[name]
