"""The TOML files of systems: keys of earlier versions, paths next to the file, and what a file implies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tcbench.errors import ConfigError, UnknownName
from tcbench.settings import merge, read_toml, rename_keys
from textcraftor.diffusion.runner import ORIGINAL
from textcraftor.diffusion.schedule import Schedule
from textcraftor.io.system import SYSTEM_FILE
from textcraftor.rewriters import Rewriter

COMPONENTS = ("text_encoder", "text_encoder_2", "unet", "vae")
"""Fields of a system that name folders of components."""

RENAMED = {
    "sampler": "schedule.sampler",
    "spacing": "schedule.spacing",
    "steps": "schedule.steps",
    "guidance": "schedule.guidance",
    "eta": "schedule.eta",
    "size": "schedule.size",
    "chooser": "test_time_reward",
    "best_of_reward": "test_time_reward",
    "windows.share": "windows.tuned_steps",
}
"""Keys of earlier versions: an error that names the new key, except in files that training wrote."""


def read_values(path: Path, named: Mapping[str, Any]) -> dict[str, Any]:
    """Read a TOML file of a system. Its keys are the fields of `benchmarks.systems.System`, and ``base``.

    Folders are looked up next to the file first.

    Args:
        path: The file.
        named: The systems that ``base`` may name.

    Returns:
        Values of the fields that the file or its base sets; they are not checked yet.

    Raises:
        UnknownName: For an unknown base; with close matches.
        ConfigError: If the file cannot be read, or names neither a pipeline nor a base.
    """
    raw = read_toml(path)
    base = _base(path, raw.pop("base", None), named)
    if base is None and "pipeline" not in raw:
        raise ConfigError(
            f"{path}: no pipeline; set `pipeline` (a diffusers folder or hub id) or `base` (a named system)"
        )
    if path.name == SYSTEM_FILE:  # written by training or a mix, perhaps by an earlier version
        raw = _updated(raw)
    values = {"name": path.stem} | _with_paths(path, raw)
    if "trained_on" not in raw:
        values |= _implied_training(values, base)
    return merge(asdict(base) if base else {}, values)


def _base(path: Path, name: object, named: Mapping[str, Any]) -> Any | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise ConfigError(f"{path}: base = {name!r}; expected the name of a system")
    if name not in named:
        raise UnknownName("base", name, named, source=str(path))
    return named[name]


def _updated(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a system.toml of any version under today's keys.

    Earlier versions wrote the tuned steps of a window as a share of all steps.
    """
    values = rename_keys(raw, RENAMED)
    steps = values.get("schedule", {}).get("steps", Schedule().steps)
    windows = [dict(window) for window in values.get("windows", ())]
    for window in windows:
        if "share" in window:
            window["tuned_steps"] = round(float(window.pop("share")) * steps)
    return values | ({"windows": windows} if windows else {})


def _with_paths(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's values, with folders that exist next to the file as absolute paths."""

    def resolved(folder: Any) -> Any:
        if not isinstance(folder, str) or not (path.parent / folder).exists():
            return folder  # a hub id, a path from the working directory, or an invalid value, reported later
        return str((path.parent / folder).resolve())

    values = dict(raw)
    for key in ("pipeline", *COMPONENTS, "rewriter", "calibration"):
        if key in raw and (key, raw[key]) != ("calibration", "world"):  # the shipped one, not a file
            values[key] = resolved(raw[key])
    if isinstance(raw.get("lora"), str):
        values["lora"] = {resolved(raw["lora"]): 1.0}
    elif isinstance(raw.get("lora"), dict):
        values["lora"] = {resolved(name): scale for name, scale in raw["lora"].items()}
    if isinstance(raw.get("windows"), list):
        values["windows"] = [
            window
            | {"weights": {n if n == ORIGINAL else resolved(n): w for n, w in window["weights"].items()}}
            if isinstance(window, dict) and isinstance(window.get("weights"), dict)
            else window
            for window in raw["windows"]
        ]
    return values


def _implied_training(values: Mapping[str, Any], base: Any | None) -> dict[str, Any]:
    """Return ``trained_on`` for a file that does not declare it, if it follows from the rest of the file."""
    if isinstance(values.get("rewriter"), str):
        declared = (base.trained_on if base else (), Rewriter.find(values["rewriter"]).trained_on)
        return {"trained_on": None if None in declared else [*(declared[0] or ()), *(declared[1] or ())]}
    if {"pipeline", *COMPONENTS, "lora", "windows"} & values.keys():
        return {"trained_on": None}  # the base's declaration does not apply to other weights
    return {}
