"""What the cells of a comparison do: train, try learning rates, make systems, draw and score them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.columns import find_columns
from benchmarks.diversity import measure
from benchmarks.mixes import mix, write
from benchmarks.pairs import write_pairs
from benchmarks.run import Request, execute, plan
from benchmarks.systems import System, find_system
from leaderboards.records import HEADER, RunFolder
from tcbench.files import write_atomically
from tcbench.progress import Progress
from textcraftor.config import TrainConfig, make_config
from textcraftor.io.checkpoint import RECORD, VALIDATION, TrainFolder, read_checkpoint
from textcraftor.ledger import Ledger
from textcraftor.validation import TRAINED, Validation

MODEL, SUITE, TRAINING_SUITE = "micro", "world", "world-train"
SELECTION = "world-siglip"

TRAINING = "train"
TABULATED = "tabulated"
"""Folder with the name of the run folder of each system, of which there may be older ones."""


RESULTS = "results"
"""Folder with what is kept of each training run."""


def renders(folder: Path, progress: Progress, count: int) -> list[Path]:
    """True pictures of the training prompts, for direct fine-tuning."""
    from rewards.world.prompts import world_prompts
    from textcraftor.micro.training.renders import write_renders

    write_renders(folder / "renders", [prompt.text for prompt in world_prompts("train")[:count]])
    return []


def best(folder: Path, progress: Progress, prompts: int, chooser: str) -> list[Path]:
    """The best of four images of some training prompts, as pairs for supervised fine-tuning (RAFT)."""
    own = replace(find_system(MODEL), best_of=4, chooser=chooser, calibration="world")
    place = folder / "systems" / "best-of-4-training"
    write(own, place)
    request = Request(
        str(place), suite=TRAINING_SUITE, limit=prompts, rewards=(), device="cpu", out=folder / "best-runs"
    )
    write_pairs(RunFolder(execute(plan(request), progress).path), folder / "best")
    return []


def trial(
    folder: Path, progress: Progress, name: str, settings: Mapping[str, Any], rate: float
) -> list[Path]:
    """Train with the first seed and one of the learning rates that are tried."""
    return [_train(folder, progress, trial_name(name, rate), settings, rate, 0)]


def trained(
    folder: Path,
    progress: Progress,
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    rates: Sequence[float],
    rates_of: str,
) -> list[Path]:
    """Train with the learning rate that was chosen; the trial of it, if that is what is asked, is not done
    twice.
    """
    rate = chosen_rate(folder, rates_of, rates)
    own = training_name(folder, name, seed, rates if rates_of == name else ())
    kept = _train(folder, progress, own, settings, rate, seed)
    write(find_system(str(folder / TRAINING / own)), folder / "systems" / f"{name}-{seed}")
    return [kept]


def chosen_rate(folder: Path, name: str, rates: Sequence[float]) -> float:
    """The learning rate of the greatest gain in the trained mix on validation prompts, at the checkpoint that
    the run chose; of those whose selection reward did not fall significantly, unless all did.
    """
    if len(rates) == 1:
        return rates[0]
    found = {rate: result(folder, trial_name(name, rate)).validation for rate in rates}
    harmless = [rate for rate in rates if not found[rate].changes[SELECTION][2] < 0]  # type: ignore[operator]
    return max(harmless or rates, key=lambda rate: found[rate].changes[TRAINED][0] or 0.0)


@dataclass(frozen=True)
class Result:
    """What is kept of a training run."""

    config: Mapping[str, Any]
    environments: Sequence[Mapping[str, Any]]
    updates: int
    ledger: Ledger
    """Of all updates."""
    validation: Validation
    """Of the chosen checkpoint."""

    @classmethod
    def of(cls, training: TrainFolder) -> Result:
        """Of one that is done."""
        record = json.loads((training.path / RECORD).read_text(encoding="utf-8"))
        newest = training.newest()
        assert newest is not None
        chosen = read_checkpoint(training.path / "best").update
        row = next(row for row in training.rows(VALIDATION) if row["update"] == chosen)
        ledger = Ledger(**newest.record["ledger"])
        return cls(record["config"], record["environments"], newest.update, ledger, Validation.of(row))


def result(folder: Path, name: str) -> Result:
    """What was kept of a training run."""
    record = json.loads((folder / RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    own = {"ledger": Ledger(**record["ledger"]), "validation": Validation(**record["validation"])}
    return Result(**record | own)


def trial_name(name: str, rate: float) -> str:
    """Of the training run that tries a learning rate."""
    return f"{name}-0-lr-{rate:g}"


def training_name(folder: Path, name: str, seed: int, rates: Sequence[float]) -> str:
    """Of a method's training run: that of the first seed is a trial, where several rates were tried."""
    if seed == 0 and len(rates) > 1:
        return trial_name(name, chosen_rate(folder, name, rates))
    return f"{name}-{seed}"


def _train(
    folder: Path, progress: Progress, own: str, settings: Mapping[str, Any], rate: float, seed: int
) -> Path:
    """Where its result is. What is trained already is only read."""
    from textcraftor.train import train

    place = folder / TRAINING / own
    train(configured(folder, settings, rate, seed), place, device="cpu", progress=progress)
    (folder / RESULTS).mkdir(exist_ok=True)
    kept = folder / RESULTS / f"{own}.json"
    write_atomically(kept, (json.dumps(asdict(Result.of(TrainFolder(place))), indent=1) + "\n").encode())
    return kept


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


def _weights(folder: Path, name: str) -> Path:
    """What a method's first seed was trained to."""
    made = find_system(str(folder / "systems" / f"{name}-0"))
    return Path(next(iter(made.windows[-1].weights)))


def system(
    folder: Path,
    progress: Progress,
    name: str,
    of: str,
    changes: Mapping[str, Any],
    mix: Mapping[str, float],
) -> list[Path]:
    """Make a system of others."""
    place = folder / "systems" / name
    if mix:
        _mixed(folder, place, mix)
        return []
    base = find_system(str(folder / "systems" / f"{of}-0") if of else MODEL)
    own = dict(changes)
    if last := own.pop("last", None):
        base = base.switched(last)
    write(replace(base, **own, method=""), place)
    return []


def _mixed(folder: Path, place: Path, parts: Mapping[str, float]) -> System:
    named = {n if n == "original" else str(folder / "systems" / f"{n}-0"): w for n, w in parts.items()}
    shutil.rmtree(place, ignore_errors=True)  # of an earlier start
    return mix(named, place)


def run(folder: Path, progress: Progress, name: str, prompts: int, seeds: int) -> list[Path]:
    """Draw and score a system on held-out prompts, and measure how much its images of one prompt differ."""
    model = name if name == MODEL else str(folder / "systems" / name)
    request = Request(model, suite=SUITE, limit=prompts, seeds=seeds, device="cpu", out=folder / "runs")
    (folder / TABULATED).mkdir(exist_ok=True)
    outcome = execute(plan(request), progress)
    if not outcome.complete:
        raise ValueError(f"{outcome.path} is not complete: {len(outcome.missing)} images are missing")
    (column,) = find_columns([SELECTION])
    made = RunFolder(outcome.path)
    measure(made, column, "cpu", progress)
    write_atomically(folder / TABULATED / name, f"{outcome.path.name}\n".encode())
    return [folder / TABULATED / name, *kept_of(made)]


def kept_of(made: RunFolder) -> list[Path]:
    """A run's files but for its images, of which only those are kept that a board shows."""
    from leaderboards.pictures import shown_keys

    own = made.samples()
    shown = [made.image_path(own[key]) for key in shown_keys([made])]
    return [made.path / HEADER, *made.path.glob("samples/*"), *made.path.glob("scores/*/*"), *shown]
