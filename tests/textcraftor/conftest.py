"""A tiny SDXL pipeline, and small training configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from tcbench.settings import build_settings
from textcraftor.config import TrainConfig

GROUPS = {
    field.name: [inner.name for inner in fields(hints)]
    for field in fields(TrainConfig)
    if is_dataclass(hints := get_type_hints(TrainConfig)[field.name])
}
SPECIAL = {"algorithm": ("algorithm", "name"), "prompts": ("data", "prompts"),
           "validation_prompts": ("validation", "prompts")}  # fmt: skip


def _small_config(pipeline: Path, **settings: Any) -> TrainConfig:
    """A configuration from settings by their names without the group, such as ``lr=1e-3``."""
    nested: dict[str, Any] = {"model": str(pipeline)}
    for name, value in settings.items():
        group, key = SPECIAL.get(name) or next(
            ((group, name) for group, names in GROUPS.items() if name in names), ("", name)
        )
        if group:
            nested.setdefault(group, {})[key] = value
        else:
            nested[key] = value
    return build_settings(TrainConfig, nested, source="test")


class Notes:
    """Keeps what a run reports.

    Args:
        after_update: Called with the number of updates after each of them; it may end the run.
    """

    def __init__(self, after_update: Callable[[int], object] = lambda done: None) -> None:
        self.lines: list[str] = []
        self.statuses: list[str] = []
        self._after_update, self._done = after_update, 0

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self._done = done

    def advance(self, count: int = 1, status: str = "") -> None:
        self.statuses.append(status)
        self._done += count
        self._after_update(self._done)

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def make_notes() -> type[Notes]:
    """Makes a progress report that keeps its lines (`Notes`)."""
    return Notes


@pytest.fixture(scope="module")
def toys(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the toy rewards of the test module, its `REWARDS`."""
    file = tmp_path_factory.mktemp("rewards") / "toys.py"
    file.write_text(request.module.REWARDS)
    return file


@pytest.fixture
def prompts(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with the prompts of the test module, its `PROMPTS`."""
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(request.module.PROMPTS) + "\n")
    return file


@pytest.fixture
def small_config() -> Callable[..., TrainConfig]:
    """Makes a configuration of a pipeline's folder from settings without their groups."""
    return _small_config


@pytest.fixture
def config_for(
    request: pytest.FixtureRequest, tiny_pipeline: Path, toys: Path, prompts: Path
) -> Callable[..., TrainConfig]:
    """Makes small configurations: the test module's `CONFIG` for its `REWARD`; keywords change settings."""

    def make(**changes: Any) -> TrainConfig:
        base: dict[str, Any] = request.module.CONFIG
        files = {"mix": f"{toys}:{request.module.REWARD}=1", "prompts": str(prompts)}
        if base["every"]:
            files["validation_prompts"] = str(prompts)
        return _small_config(tiny_pipeline, **files | base | changes)

    return make


@pytest.fixture(autouse=True)
def _no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of training do not draw: two pictures take as long as the updates of a tiny run."""
    if {"config_for", "small_config"} & {*request.fixturenames}:
        monkeypatch.setattr("textcraftor.validation.save_curves", lambda folder: None)
