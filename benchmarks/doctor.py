"""What `tcbench doctor` finds out: which packages run, what collides with them, what is installed and at
hand.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Literal

from tcbench import environment
from tcbench.launch import PACKAGES, ROOT, SHADOWED, imported_from
from textcraftor.io import provenance

State = Literal["ok", "absent", "warning", "problem"]

DISTRIBUTION = "tcbench"


@dataclass(frozen=True)
class Finding:
    """One line of the report. "absent" is optional and missing, "problem" stands in the way of work."""

    topic: str
    subject: str
    state: State
    text: str
    mend: str = ""


def examine(folder: Path | None = None) -> Iterator[Finding]:
    """All findings, as seen from the working directory `folder`."""
    yield from packages(folder or Path.cwd())
    for examiner in (libraries, device, settings, pipelines, reward_weights, prompt_sets):
        try:
            yield from examiner()
        except Exception as error:  # what cannot even be examined is a finding too, and the rest goes on
            text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            yield Finding(
                examiner.__name__, "", "problem", text, "see the lines above, or install tcbench again"
            )


def packages(folder: Path) -> Iterator[Finding]:
    """Where each of the four packages is imported from, and what bears its name elsewhere."""
    owners = packages_distributions()
    for name in PACKAGES:
        yield _import(name)
        others = sorted({*owners.get(name, ())} - {DISTRIBUTION})
        if others:
            mend = f"uninstall {' or '.join(others)}, or keep tcbench in an environment of its own"
            yield Finding("package", name, "problem", f"also installed by {', '.join(others)}", mend)
        same = (folder / name).resolve()
        if same.is_dir() and same not in (ROOT / name, SHADOWED.get(name)):
            mend = (
                f"rename it, or leave this folder; the command tcbench is not affected, but `python -c` and "
                f"`python -m` here import ./{name} (python -P does not)"
            )
            yield Finding(
                "package", name, "warning", f"your own folder {folder / name} has the same name", mend
            )


def _import(name: str) -> Finding:
    if name in SHADOWED:
        hiding = SHADOWED[name] or "nothing"
        mend = f"take {hiding} off PYTHONPATH or rename it; until then only the command tcbench works here"
        return Finding(
            "package", name, "problem", f"`import {name}` finds {hiding}, tcbench uses {ROOT / name}", mend
        )
    place = imported_from(name)
    if place != ROOT / name:
        mend = "start it by the command tcbench, with a clean PYTHONPATH"
        return Finding("package", name, "problem", f"imported from {place}, not from {ROOT / name}", mend)
    return Finding("package", name, "ok", str(place))


def libraries() -> Iterator[Finding]:
    """Installed versions."""
    yield Finding("library", "python", "ok", platform.python_version())
    for name in provenance.LIBRARIES:
        found = environment.installed_version(name)
        if found:
            yield Finding("library", name, "ok", found)
        elif name != DISTRIBUTION:
            yield Finding("library", name, "problem", "not installed", f"pip install {name}")


def device() -> Iterator[Finding]:
    """What the work would run on."""
    import torch

    from textcraftor.diffusion.devices import find_device

    chosen = find_device("auto")
    name = torch.cuda.get_device_name() if chosen == "cuda" else platform.processor() or platform.machine()
    yield Finding(
        "device", chosen, "ok", f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    )


def settings() -> Iterator[Finding]:
    """Environment variables that change where things are looked for."""
    for name in ("TCBENCH_PROMPTS", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "PYTHONPATH"):
        if os.environ.get(name):
            yield Finding("setting", name, "ok", os.environ[name])


def pipelines() -> Iterator[Finding]:
    """Which named systems' pipelines are on this machine. A shipped one that is missing is a problem."""
    from benchmarks.systems import SYSTEMS
    from tcbench.errors import MissingFiles
    from textcraftor.diffusion.pipeline import find_pipeline

    for system in SYSTEMS.values():
        try:
            place = find_pipeline(system.source, fetch=False)
            yield Finding("pipeline", system.name, "ok", str(place))
        except MissingFiles as error:
            shipped = system.gigabytes is None
            text = (
                "the installed package lacks it"
                if shipped
                else f"not here, {system.gigabytes:g} GB to download"
            )
            yield Finding("pipeline", system.name, "problem" if shipped else "absent", text, str(error))


def reward_weights() -> Iterator[Finding]:
    """Which rewards' weights are on this machine. Shipped ones that are missing are a problem."""
    from rewards.registry import info, list_rewards
    from rewards.weights.locate import locate_weights
    from tcbench.errors import FileFormatError, MismatchError

    for name in list_rewards():
        try:
            record = info(name)
        except ValueError as error:  # a plug-in that cannot be imported
            yield Finding("reward", name, "problem", str(error), "mend or uninstall the plug-in")
            continue
        try:
            locate_weights(record, fetch=False)
            yield Finding("reward", name, "ok", "weights found" if record.weights else "needs no weights")
        except (MismatchError, FileFormatError) as error:
            yield Finding("reward", name, "problem", "its weights cannot be trusted", str(error))
        except ValueError as error:
            shipped = all(file.package for file in record.weights)
            size = sum(file.megabytes for file in record.weights)
            text = (
                "the installed package lacks its weights"
                if shipped
                else f"not here, {size:.0f} MB to download"
            )
            yield Finding("reward", name, "problem" if shipped else "absent", text, str(error))


def prompt_sets() -> Iterator[Finding]:
    """Which suites' prompts are on this machine."""
    from benchmarks.suites import SUITES, suite
    from benchmarks.suites.base import is_present

    for name in SUITES:
        record = suite(name)
        if is_present(record):
            yield Finding("suite", name, "ok", f"{record.count} prompts")
        else:
            mend = f"get them from {record.homepage} and set TCBENCH_PROMPTS to their folder"
            yield Finding("suite", name, "absent", f"not here, {record.count} prompts", mend)
