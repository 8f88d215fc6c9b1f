"""Examine an installation for `tcbench doctor`: packages, conflicts, versions, and files that are present."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Literal

from benchmarks.suites.base import PROMPTS_VARIABLE
from tcbench import environment
from tcbench.errors import first_line
from tcbench.launch import PACKAGES, ROOT, SHADOWED, imported_from
from textcraftor.io import provenance

State = Literal["ok", "absent", "warning", "problem"]

_DISTRIBUTION = "tcbench"


@dataclass(frozen=True)
class _Finding:
    """One line of the report."""

    topic: str
    """package | library | device | setting | pipeline | reward | suite"""
    subject: str
    state: State
    """"absent": optional and not downloaded; "problem": prevents work."""
    text: str
    fix: str = ""
    """How to fix or get it."""


def examine(folder: Path | None = None, topics: Collection[str] | None = None) -> Iterator[_Finding]:
    """Yield all findings.

    Args:
        folder: Working directory, which may hold folders that hide packages; by default the current one.
        topics: Topics to examine; None for all.
    """
    examiners: Mapping[str, Callable[[], Iterator[_Finding]]] = {
        "package": partial(_packages, folder or Path.cwd()),
        "library": _libraries,
        "device": _device,
        "setting": _settings,
        "pipeline": _pipelines,
        "reward": _reward_weights,
        "suite": _prompt_sets,
    }
    for topic, examiner in examiners.items():
        if topics is not None and topic not in topics:
            continue
        try:
            yield from examiner()
        except Exception as error:  # an examination that fails is a finding too; the others continue
            text = f"{type(error).__name__}: {first_line(error)}"
            yield _Finding(topic, "", "problem", text, "see the lines above, or reinstall tcbench")


def _packages(folder: Path) -> Iterator[_Finding]:
    owners = packages_distributions()
    for name in PACKAGES:
        yield _imported_package(name)
        others = sorted({*owners.get(name, ())} - {_DISTRIBUTION})
        if others:
            fix = f"uninstall {' or '.join(others)}, or install tcbench in a separate environment"
            yield _Finding("package", name, "problem", f"also installed by {', '.join(others)}", fix)
        same = (folder / name).resolve()
        if same.is_dir() and same not in (ROOT / name, SHADOWED.get(name)):
            fix = (
                "rename it, or leave this folder; the command tcbench is not affected, but `python -c` and "
                f"`python -m` here import ./{name} (python -P does not)"
            )
            yield _Finding("package", name, "warning", f"your folder {folder / name} has the same name", fix)


def _imported_package(name: str) -> _Finding:
    if name in SHADOWED:
        other = SHADOWED[name] or "nothing"
        text = f"`import {name}` finds {other}, tcbench uses {ROOT / name}"
        fix = f"remove {other} from PYTHONPATH or rename it; until then only the command tcbench works here"
        return _Finding("package", name, "problem", text, fix)
    path = imported_from(name)
    if path != ROOT / name:
        fix = "use the command tcbench, with a clean PYTHONPATH"
        return _Finding("package", name, "problem", f"imported from {path}, not from {ROOT / name}", fix)
    return _Finding("package", name, "ok", str(path))


def _libraries() -> Iterator[_Finding]:
    yield _Finding("library", "python", "ok", platform.python_version())
    for name in provenance.LIBRARIES:
        version = environment.installed_version(name)
        if version:
            yield _Finding("library", name, "ok", version)
        elif name != _DISTRIBUTION:  # a checkout on PYTHONPATH is not installed, and works
            yield _Finding("library", name, "problem", "not installed", f"pip install {name}")


def _device() -> Iterator[_Finding]:
    import torch

    from textcraftor.diffusion.devices import find_device

    device = find_device("auto")
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    yield _Finding(
        "device", device, "ok", f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    )


def _settings() -> Iterator[_Finding]:
    """Environment variables that change where files are searched."""
    weights = sorted(name for name in os.environ if name.startswith("TCBENCH_WEIGHTS_"))
    for name in (PROMPTS_VARIABLE, *weights, "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "PYTHONPATH"):
        if os.environ.get(name):
            yield _Finding("setting", name, "ok", os.environ[name])


def _pipelines() -> Iterator[_Finding]:
    from benchmarks.systems import SYSTEMS
    from tcbench.errors import MissingFiles

    for system in SYSTEMS.values():
        try:
            path = system.source.find(fetch=False)
            yield _Finding("pipeline", system.name, "ok", str(path))
        except MissingFiles as error:
            if system.gigabytes is None:  # it ships with the package
                yield _incomplete_package("pipeline", system.name, error)
            else:
                text = f"not downloaded ({system.gigabytes:g} GB)"
                yield _Finding("pipeline", system.name, "absent", text, str(error))


def _reward_weights() -> Iterator[_Finding]:
    from rewards.registry import info, list_rewards
    from rewards.weights.locate import locate_weights
    from tcbench.errors import FileFormatError, MismatchError

    for name in list_rewards():
        try:
            record = info(name)
        except ValueError as error:  # a plug-in that cannot be imported
            yield _Finding("reward", name, "problem", str(error), "fix or uninstall the plug-in")
            continue
        try:
            locate_weights(record, fetch=False)
            yield _Finding("reward", name, "ok", "weights found" if record.weights else "needs no weights")
        except (MismatchError, FileFormatError) as error:
            yield _Finding("reward", name, "problem", "its weights cannot be trusted", str(error))
        except ValueError as error:
            if all(file.package for file in record.weights):
                yield _incomplete_package("reward", name, error)
            else:
                size = sum(file.megabytes for file in record.weights)
                yield _Finding("reward", name, "absent", f"not downloaded ({size:.0f} MB)", str(error))


def _incomplete_package(topic: str, subject: str, error: Exception) -> _Finding:
    return _Finding(topic, subject, "problem", "missing from the installed package", str(error))


def _prompt_sets() -> Iterator[_Finding]:
    from benchmarks.suites import SUITES, find_suite

    for name in SUITES:
        record = find_suite(name)
        if record.is_present():
            yield _Finding("suite", name, "ok", f"{record.count} prompts")
        else:
            fix = f"get them from {record.homepage} and set {PROMPTS_VARIABLE} to their folder"
            yield _Finding("suite", name, "absent", f"not downloaded ({record.count} prompts)", fix)
