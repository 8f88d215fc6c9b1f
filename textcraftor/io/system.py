"""The file system.toml, which makes a folder of tuned weights or an encoder mix a model for `tcbench run`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tcbench.files import write_atomically
from tcbench.settings import toml_value
from textcraftor.config import TrainConfig
from textcraftor.diffusion.models import Model
from textcraftor.diffusion.pipeline import Source
from textcraftor.diffusion.runner import ORIGINAL, EncoderWindow
from textcraftor.diffusion.schedule import Schedule

SYSTEM_FILE = "system.toml"
"""Name of the file."""


def write_system(
    folder: Path,
    source: Source,
    *,
    windows: Sequence[EncoderWindow],
    schedule: Schedule,
    folders: Mapping[str, str | Path | None],
    lora: Mapping[str, float] = MappingProxyType({}),
    **settings: Any,
) -> None:
    """Write ``folder/system.toml``, which makes the folder a model for `tcbench run`.

    Args:
        folder: Folder of the description.
        source: Pipeline of the base model.
        windows: Sampling steps with other text encoders.
        schedule: Sampling settings.
        folders: Folders of components that replace the base's, by key; None: not replaced. They are written
            relative to ``folder``, so that the folder can be moved as a whole.
        lora: Files of adapters with their scales.
        **settings: Other fields of `benchmarks.systems.System`; None and "" are left out.
    """
    paths = {name: _relative(path, folder) for name, path in folders.items() if path}
    values = {key: value for key, value in (settings | paths).items() if value not in (None, "")}
    if lora:
        values["lora"] = {_relative(name, folder): scale for name, scale in lora.items()}
    sampling = {
        name: value
        for name, value in asdict(schedule).items()
        # a default is left out only where it means "off": guidance = 0 must override the base's
        if value or name in ("steps", "guidance")
    }
    tables = []
    for window in windows:
        table = {"tuned_steps": window.tuned_steps} if window.tuned_steps else {}
        weights = {_relative(name, folder): weight for name, weight in window.weights.items()}
        tables.append({**table, "weights": weights})
    text = _toml(
        {**_base(source, folder), **values, "schedule": sampling} | ({"windows": tables} if tables else {})
    )
    write_atomically(folder / SYSTEM_FILE, text.encode())


def write_trained(folder: Path, weights: Path, config: TrainConfig, trained_on: Sequence[str] | None) -> None:
    """Write ``folder/system.toml`` for the weights of a training run, which samples as the run validated.

    Args:
        folder: Folder of the description.
        weights: Folder of the weights.
        config: The run's configuration.
        trained_on: Rewards that the weights are trained on; None: undeclared.
    """
    source, rewriter = Model.find(config.model).source, bool(config.trainable.rewriter)
    write_system(
        folder,
        source,
        # without eta: an encoder that was trained with noise (DDPO) is used without it, as any other
        schedule=replace(config.schedule, eta=0.0, tuned_steps=0 if rewriter else config.eval_tuned_steps),
        windows=[] if rewriter else [EncoderWindow({str(weights): 1.0})],
        trained_on=trained_on,
        folders={
            "unet": weights / "unet" if "unet" in config.trainable.parts else None,
            "rewriter": weights / "rewriter" if rewriter else None,
        },
        method=config.logging.method,
    )


def _base(source: Source, description: Path) -> dict[str, str]:
    """Return the keys of a system file that name a base model: a name, a folder or a hub id with revision.

    The folder of the description is named relatively, so that it can be moved as a whole.
    """
    path, revision = source.location, source.revision
    if name := Model.name_of(path, revision):
        return {"base": name}
    folder = Path(path).expanduser()
    if folder.is_dir():
        path = "." if folder.resolve() == description.resolve() else str(folder.resolve())
    return {"pipeline": path} | ({"revision": revision} if revision else {})


def _relative(path: str | Path, folder: Path) -> str:
    if path == ORIGINAL:
        return ORIGINAL
    return os.path.relpath(Path(path).resolve(), folder.resolve())


def _toml(values: Mapping[str, Any]) -> str:
    """Return settings as TOML: plain values first, then tables, then lists of tables."""
    plain = {
        key: value for key, value in values.items() if not isinstance(value, Mapping) and not _tables(value)
    }
    lines = [f"{key} = {toml_value(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{key}]", *(f"{_key(name)} = {toml_value(item)}" for name, item in value.items())]
        elif _tables(value):
            for table in value:
                lines += ["", f"[[{key}]]", *(f"{name} = {toml_value(item)}" for name, item in table.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else toml_value(name)


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
