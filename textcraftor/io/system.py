"""The description that makes a folder of tuned weights, or a mix of such, a system for `tcbench run`."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewards.registry import info
from tcbench.files import write_atomically
from textcraftor.config import TrainConfig
from textcraftor.diffusion.models import MODELS, find_model
from textcraftor.diffusion.runner import ORIGINAL, Window
from textcraftor.io.pairs import DECLARED
from textcraftor.rewriters import find_rewriter

SYSTEM_FILE = "system.toml"
"""What makes a folder a system."""


def write_system(
    folder: Path,
    base: Mapping[str, Any],
    *,
    windows: Sequence[Window],
    folders: Mapping[str, str | Path | None],
    **settings: Any,
) -> None:
    """``folder/system.toml``: a base model (`base_of`), other text encoders in windows of its steps.

    ``folders`` are components that replace the base's. Places are written relative to ``folder``, so that
    what lies in it may move with it; what is None or "" is left out.
    """
    given = {**settings, **{name: _place(place, folder) for name, place in folders.items() if place}}
    values = {key: value for key, value in given.items() if value not in (None, "")}
    placed = [
        replace(window, weights={_place(name, folder): w for name, w in window.weights.items()})
        for window in windows
    ]
    tables = [{"share": window.share, "weights": window.weights} for window in placed]
    text = toml({**base, **values, "windows": tables})
    write_atomically(folder / SYSTEM_FILE, text.encode())


def optimised_for(config: TrainConfig) -> list[str] | None:
    """Rewards that a run's weights are optimised for: its own, those of the checkpoint or rewriter it starts
    from, and those that its pairs were drawn or chosen by. None where one of these does not say.
    """
    from rewards.combine.terms import parse_mix  # with torch, which a description needs not

    found = [] if config.estimator == "denoising" else [info(name).name for name in parse_mix(config.rewards)]
    declared: list[Sequence[str] | None] = []
    if config.rewriter:
        declared.append(find_rewriter(config.rewriter).trained_on)
    if config.start:
        file = Path(config.start) / SYSTEM_FILE
        declared.append(tomllib.loads(file.read_text()).get("trained_on") if file.is_file() else None)
    if config.pairs:
        file = Path(config.pairs) / DECLARED
        silent: list[str] | None = None if config.estimator == "denoising" else []
        declared.append(json.loads(file.read_text())["trained_on"] if file.is_file() else silent)
    if None in declared:
        return None
    return list(dict.fromkeys([*found, *(name for names in declared for name in names or ())]))


def write_trained(folder: Path, weights: Path, config: TrainConfig) -> None:
    """The system of a training run's weights, which lie in ``weights``, as it was trained."""
    source, share = find_model(config.model).source, config.drawn_tuned_steps / config.steps
    write_system(
        folder,
        base_of(source.place, source.revision),
        windows=[] if config.rewriter else [Window(share, {str(weights): 1.0})],
        trained_on=optimised_for(config),
        folders={
            "unet": weights / "unet" if "unet" in config.trains else None,
            "rewriter": weights / "rewriter" if config.rewriter else None,
        },
        sampler=config.sampler,
        spacing=config.spacing,
        steps=config.steps,
        guidance=config.guidance,
        size=config.size,
        method=config.method,
    )


def base_of(place: str, revision: str | None) -> dict[str, str]:
    """How a description names its base model: by name, else by folder or hub id."""
    named = next((name for name, model in MODELS.items() if model.source.place == place), None)
    if named:
        return {"base": named}
    folder = Path(place).expanduser()
    return {"pipeline": str(folder.resolve()) if folder.is_dir() else place} | (
        {"revision": revision} if revision else {}
    )


def _place(name: str | Path, folder: Path) -> str:
    return ORIGINAL if name == ORIGINAL else os.path.relpath(Path(name).resolve(), folder.resolve())


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
