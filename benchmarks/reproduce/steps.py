"""What the cells of a comparison do: train, try learning rates, make systems, draw and score them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.columns import find_columns
from benchmarks.diversity import measure
from benchmarks.mixes import mix, write
from benchmarks.pairs import write_pairs
from benchmarks.run import Request, execute, plan
from benchmarks.systems import System, find_system
from leaderboards.journal import read_lines, write_atomically
from leaderboards.records import RunFolder
from textcraftor.checkpoint import RECORD, VALIDATION, read_checkpoint
from textcraftor.config import TrainConfig, make_config
from textcraftor.progress import Progress
from textcraftor.validation import TRAINED, Validation

MODEL, SUITE, TRAINING_SUITE = "micro", "world", "world-train"
SELECTION = "world-siglip"

TABULATED = "tabulated"
"""Folder with the name of the run folder of each system, of which there may be older ones."""


def renders(folder: Path, progress: Progress, count: int) -> None:
    """True pictures of the training prompts, for direct fine-tuning."""
    from rewards.world.prompts import world_prompts
    from textcraftor.micro.renders import write_renders

    write_renders(folder / "renders", [prompt.text for prompt in world_prompts("train")[:count]])


def best(folder: Path, progress: Progress, prompts: int, chooser: str) -> None:
    """The best of four images of some training prompts, as pairs for supervised fine-tuning (RAFT)."""
    own = replace(find_system(MODEL), best_of=4, chooser=chooser, calibration="world")
    place = folder / "systems" / "best-of-4-training"
    write(own, place)
    request = Request(
        str(place), suite=TRAINING_SUITE, limit=prompts, rewards=(), device="cpu", out=folder / "best-runs"
    )
    write_pairs(RunFolder(execute(plan(request), progress).path), folder / "best")


def trial(folder: Path, progress: Progress, name: str, settings: Mapping[str, Any], rate: float) -> None:
    """Train with the first seed and one of the learning rates that are tried."""
    _train(folder, progress, trial_folder(folder, name, rate), settings, rate, 0)


def trained(
    folder: Path,
    progress: Progress,
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    rates: Sequence[float],
    rates_of: str,
) -> None:
    """Train with the learning rate that was chosen; or take the trial of it, if that is what is asked."""
    rate = chosen_rate(folder, rates_of, rates)
    tried = rates_of == name and seed == 0 and len(rates) > 1
    place = trial_folder(folder, name, rate) if tried else folder / "train" / f"{name}-{seed}"
    if not tried:
        _train(folder, progress, place, settings, rate, seed)
    write(find_system(str(place)), folder / "systems" / f"{name}-{seed}")


def chosen_rate(folder: Path, name: str, rates: Sequence[float]) -> float:
    """The learning rate of the greatest gain in the trained mix on validation prompts, at the checkpoint that
    the run chose; of those whose selection reward did not fall significantly, unless all did.
    """
    if len(rates) == 1:
        return rates[0]
    found = {rate: trial_result(trial_folder(folder, name, rate)) for rate in rates}
    harmless = [rate for rate in rates if not found[rate].changes[SELECTION][2] < 0]  # type: ignore[operator]
    return max(harmless or rates, key=lambda rate: found[rate].changes[TRAINED][0] or 0.0)


def trial_result(folder: Path) -> Validation:
    """The validation of a training run's chosen checkpoint."""
    update = read_checkpoint(folder / "best").update
    rows = [Validation.of(row) for row in read_lines(folder / VALIDATION)]
    return next(row for row in rows if row.update == update)


def trial_folder(folder: Path, name: str, rate: float) -> Path:
    """Where a learning rate is tried."""
    return folder / "train" / f"{name}-0-lr-{rate:g}"


def _train(
    folder: Path, progress: Progress, place: Path, settings: Mapping[str, Any], rate: float, seed: int
) -> None:
    from textcraftor.train import train

    train(configured(folder, settings, rate, seed), place, device="cpu", progress=progress)


def configured(folder: Path, settings: Mapping[str, Any], rate: float, seed: int) -> TrainConfig:
    """The configuration of a training run, with its places in the folder."""
    own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    if own.get("pairs"):
        own["pairs"] = str(folder / own["pairs"])
    elif "unet" not in own.get("trains", ()) and own.get("estimator") != "rewriting":
        own["prefix_cache"] = str(folder / "prefixes")
    if own.get("start"):
        own["start"] = str(_weights(folder, own["start"]))
    return make_config(MODEL, **own, lr=rate, seed=seed)


def _weights(folder: Path, name: str, seed: int = 0) -> Path:
    """The chosen checkpoint of a method."""
    made = find_system(str(folder / "systems" / f"{name}-{seed}"))
    return Path(made.rewriter or next(iter(made.windows[-1].weights)))


def training_folder(folder: Path, name: str, seed: int) -> Path:
    """Where a method's training run is: of the first seed it may be a trial."""
    weights = _weights(folder, name, seed)
    found = [place for place in weights.parents if (place / RECORD).is_file()]
    if not found:
        raise ValueError(f"{weights} is in no training run: {folder} was moved or is not whole, make it anew")
    return found[0]


def system(
    folder: Path,
    progress: Progress,
    name: str,
    of: str,
    changes: Mapping[str, Any],
    mix: Mapping[str, float],
) -> None:
    """Make a system of others."""
    place = folder / "systems" / name
    if mix:
        _mixed(folder, place, mix)
        return
    base = find_system(str(folder / "systems" / f"{of}-0") if of else MODEL)
    own = dict(changes)
    if last := own.pop("last", None):
        base = base.switched(last)
    write(replace(base, **own, method=""), place)


def _mixed(folder: Path, place: Path, parts: Mapping[str, float]) -> System:
    named = {n if n == "original" else str(folder / "systems" / f"{n}-0"): w for n, w in parts.items()}
    shutil.rmtree(place, ignore_errors=True)  # of an earlier start
    return mix(named, place)


def run(folder: Path, progress: Progress, name: str, prompts: int, seeds: int) -> None:
    """Draw and score a system on held-out prompts, and measure how much its images of one prompt differ."""
    model = name if name == MODEL else str(folder / "systems" / name)
    request = Request(model, suite=SUITE, limit=prompts, seeds=seeds, device="cpu", out=folder / "runs")
    (folder / TABULATED).mkdir(exist_ok=True)
    outcome = execute(plan(request), progress)
    if not outcome.complete:
        raise ValueError(f"{outcome.path} is not complete: {len(outcome.missing)} images are missing")
    (column,) = find_columns([SELECTION])
    measure(RunFolder(outcome.path), column, "cpu", progress)
    write_atomically(folder / TABULATED / name, f"{outcome.path.name}\n".encode())
