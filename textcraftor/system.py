"""The description that makes a folder of tuned weights a system for `tcbench run`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leaderboards.journal import write_atomically
from rewards.mix import parse
from rewards.registry import info
from textcraftor.checkpoint import SYSTEM
from textcraftor.config import TrainConfig


def write_system(folder: Path, weights: Path, config: TrainConfig, named: bool) -> None:
    """``folder/system.toml``: the base model with the tuned weights of ``weights``, as trained and drawn."""
    place = "." if weights == folder else weights.name
    values: dict[str, Any] = {"base": config.model} if named else _pipeline(config.model)
    values |= {
        "sampler": config.sampler,
        "steps": config.steps,
        "guidance": config.guidance,
        "trained_on": [info(name).name for name in parse(config.rewards)],
    }
    if config.spacing:
        values["spacing"] = config.spacing
    if config.size:
        values["size"] = list(config.size)
    if "unet" in config.trains:
        values["unet"] = f"{place}/unet"
    window = {"share": config.drawn_tuned_steps / config.steps, "weights": {place: 1.0}}
    write_atomically(folder / SYSTEM, toml({**values, "windows": [window]}).encode())


def _pipeline(model: str) -> dict[str, Any]:
    if Path(model).expanduser().is_dir():
        return {"pipeline": str(Path(model).expanduser().resolve())}
    place, _, revision = model.partition("@")
    return {"pipeline": place} | ({"revision": revision} if revision else {})


def toml(values: Mapping[str, Any]) -> str:
    """Flat values, and lists of tables at the end, as TOML."""
    plain = {k: v for k, v in values.items() if not _tables(v)}
    lines = [f"{key} = {_value(value)}" for key, value in plain.items()]
    for key, tables in values.items():
        if _tables(tables):
            for table in tables:
                lines += ["", f"[[{key}]]", *(f"{k} = {_value(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)
