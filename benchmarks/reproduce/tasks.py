"""Tasks of a comparison's cells: train, try learning rates, make systems, sample and score them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.diversity import measure_diversity
from benchmarks.execution import execute_plan, score_run
from benchmarks.generate import generate_images
from benchmarks.mixes import mix_encoders
from benchmarks.pairs import write_pairs
from benchmarks.planning import Request, plan_run
from benchmarks.reproduce.ceiling import NAME as CEILING
from benchmarks.reproduce.ceiling import Ceiling
from benchmarks.resolve import resolve_rewards
from benchmarks.systems import System
from leaderboards.pictures import shown_keys
from leaderboards.records import Key, Sample
from leaderboards.run_state import HEADER, RunState
from tcbench.errors import TcbenchError
from tcbench.files import locked, write_atomically
from tcbench.images import open_image
from tcbench.progress import Progress
from textcraftor.algorithms.base import TRAINED
from textcraftor.config import TrainConfig, make_config
from textcraftor.io.checkpoint import RECORD, VALIDATION, Checkpoint, TrainFolder
from textcraftor.ledger import Ledger
from textcraftor.validation import Validation

MODEL, TRAINING_SUITE = "micro", "world-train"
SELECTION = "world-siglip"
_BATCH_SIZE = 16

TABULATED = "tabulated"
"""Subfolder with one file per system that names its run folder, as "runs" may hold runs of older plans."""

_TRAINING = "train"
_SYSTEMS = "systems"
_RESULTS = "results"
"""Subfolder with the archived result of each training run."""


@dataclass(frozen=True)
class TrainingResult:
    """Summary of a training run: everything that the tables need."""

    config: Mapping[str, Any]
    environments: Sequence[Mapping[str, Any]]
    updates: int
    ledger: Ledger
    """Compute of all updates."""
    validation: Validation
    """Validation of the selected checkpoint."""

    @classmethod
    def from_training(cls, training: TrainFolder) -> TrainingResult:
        """Summarise a finished training run."""
        record = json.loads((training.path / RECORD).read_text(encoding="utf-8"))
        newest = training.newest()
        assert newest is not None
        selected = Checkpoint.read(training.path / "best").update
        row = next(row for row in training.rows(VALIDATION) if row["update"] == selected)
        ledger = Ledger(**newest.record["ledger"])
        return cls(record["config"], record["environments"], newest.update, ledger, Validation.from_row(row))

    @classmethod
    def read(cls, folder: Path, name: str) -> TrainingResult:
        """Read the result of a training run from the folder of the work."""
        record = json.loads(_result_path(folder, name).read_text(encoding="utf-8"))
        parts = {"ledger": Ledger(**record["ledger"]), "validation": Validation(**record["validation"])}
        return cls(**record | parts)

    @classmethod
    def of_trial(cls, folder: Path, name: str, rate: float) -> TrainingResult:
        """Read the result of a method's trial of a learning rate."""
        return cls.read(folder, _trial_name(name, rate))

    @classmethod
    def of_seed(cls, folder: Path, name: str, seed: int, rates: Sequence[float]) -> TrainingResult:
        """Read the result of a method's training with a seed, at the rate that was chosen among ``rates``."""
        return cls.read(folder, _training_name(folder, name, seed, rates))

    def write(self, folder: Path, name: str) -> Path:
        """Write the result for `read` and return its path."""
        return _write_result(folder, name, self)


@dataclass(frozen=True)
class Looks:
    """Mean statistics of a system's images, in the units of the rewards of these names."""

    colourfulness: float
    darkness: float

    @classmethod
    def read(cls, folder: Path, name: str) -> Looks:
        """Read what was measured of a system."""
        return cls(**json.loads(_result_path(folder, f"looks-{name}").read_text(encoding="utf-8")))

    def write(self, folder: Path, name: str) -> Path:
        """Write the statistics for `read` and return their path."""
        return _write_result(folder, f"looks-{name}", self)


def _trial_name(name: str, rate: float) -> str:
    """Return the name of the training run that tries a learning rate with a method's first seed."""
    return f"{name}-0-lr-{rate:g}"


def _training_name(folder: Path, name: str, seed: int, rates: Sequence[float]) -> str:
    """Return the name of a method's training run. With several rates, that of the first seed is a trial."""
    if seed == 0 and len(rates) > 1:
        return _trial_name(name, chosen_rate(folder, name, rates))
    return f"{name}-{seed}"


def chosen_rate(folder: Path, name: str, rates: Sequence[float]) -> float:
    """Choose a method's learning rate by its trials.

    The rate with the greatest gain in the trained mix on validation prompts, at the trial's selected
    checkpoint, wins. Rates at which the selection reward fell by more than the accepted margin are left out,
    unless it fell at all of them.
    """
    if len(rates) == 1:
        return rates[0]
    trials = {rate: TrainingResult.of_trial(folder, name, rate).validation for rate in rates}
    harmless = [rate for rate in rates if not trials[rate].fell(SELECTION)]

    def gain(rate: float) -> float:
        change = trials[rate].changes[TRAINED][0]
        return -math.inf if change is None else change

    return max(harmless or rates, key=gain)


def _render(folder: Path, progress: Progress, count: int) -> list[Path]:
    """Render images of the training prompts, for direct fine-tuning."""
    from rewards.world.prompts import world_prompts
    from textcraftor.micro.training.renders import write_renders

    write_renders(folder / "renders", [prompt.text for prompt in world_prompts("train")[:count]])
    return []


def _best_of_four(folder: Path, progress: Progress, prompts: int, reward: str) -> list[Path]:
    """Sample four images of each training prompt and write the best, for supervised fine-tuning (RAFT)."""
    system = replace(System.find(MODEL), best_of=4, test_time_reward=reward, calibration="world")
    path = folder / _SYSTEMS / "best-of-4-training"
    system.save(path)
    request = Request(
        str(path), suite=TRAINING_SUITE, limit=prompts, rewards=(), device="cpu", out=folder / "best-runs"
    )
    write_pairs(execute_plan(plan_run(request), progress).run, folder / "best")
    return []


def _try_rate(
    folder: Path, progress: Progress, name: str, settings: Mapping[str, Any], rate: float
) -> list[Path]:
    """Train with the first seed and one of the learning rates."""
    return [_train(folder, progress, _trial_name(name, rate), settings, rate, 0)]


def _train_method(
    folder: Path,
    progress: Progress,
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    rates: Sequence[float],
    rates_of: str,
) -> list[Path]:
    """Train with the chosen learning rate and write the system. A trial with this seed and rate is reused."""
    rate = chosen_rate(folder, rates_of, rates)
    training = _training_name(folder, name, seed, rates if rates_of == name else ())
    result = _train(folder, progress, training, settings, rate, seed)
    System.find(str(folder / _TRAINING / training)).save(folder / _SYSTEMS / f"{name}-{seed}")
    return [result]


def _train(
    folder: Path, progress: Progress, name: str, settings: Mapping[str, Any], rate: float, seed: int
) -> Path:
    """Train, or resume, or do nothing if training is finished. Returns the path of the result."""
    from textcraftor.training import train

    path = folder / _TRAINING / name
    train(_config(folder, settings, rate, seed), path, device="cpu", progress=progress)
    return TrainingResult.from_training(TrainFolder(path)).write(folder, name)


def _config(folder: Path, settings: Mapping[str, Any], rate: float, seed: int) -> TrainConfig:
    """Complete a method's settings with learning rate, seed and paths in the folder of the work."""
    # The settings come through JSON options, which have no tuples.
    config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    if config.get("data.pairs"):
        config["data.pairs"] = str(folder / config["data.pairs"])
    elif "unet" not in config.get("trainable.parts", ()) and config.get("algorithm.name") != "rewriting":
        # Steps before the first tuned one do not change in training, so all runs share their latents.
        config["memory.prefix_cache"] = str(folder / "prefixes")
    if config.get("trainable.start"):
        config["trainable.start"] = str(_weights(folder, config["trainable.start"], seed))
    return make_config(MODEL, overrides=config | {"optimiser.lr": rate, "seed": seed})


def _weights(folder: Path, name: str, seed: int) -> Path:
    """Return the folder of a method's weights of one training seed."""
    system = System.find(str(folder / _SYSTEMS / f"{name}-{seed}"))
    return Path(next(iter(system.windows[-1].weights)))


def _make_system(
    folder: Path,
    progress: Progress,
    name: str,
    of: str,
    changes: Mapping[str, Any],
    mix: Mapping[str, float],
) -> list[Path]:
    """Write a system that is another one with changes, or a mix of encoders."""
    path = folder / _SYSTEMS / name
    if mix:
        _mix_encoders(folder, path, mix)
        return []
    base = System.find(str(folder / _SYSTEMS / f"{of}-0") if of else MODEL)
    sampling = {name: value for name, value in changes.items() if hasattr(base.schedule, name)}
    other = {name: value for name, value in changes.items() if name not in sampling}
    replace(base.with_schedule(**sampling), **other, method="").save(path)
    return []


def _mix_encoders(folder: Path, path: Path, weights: Mapping[str, float]) -> None:
    parts = {n if n == "original" else str(folder / _SYSTEMS / f"{n}-0"): w for n, w in weights.items()}
    shutil.rmtree(path, ignore_errors=True)  # left by an interrupted start
    mix_encoders(parts, path)


def _run_system(
    folder: Path,
    progress: Progress,
    name: str,
    suite: str,
    prompts: int,
    seeds: int,
    pictures: int,
    few_prompts: int,
) -> list[Path]:
    """Sample a system on held-out prompts, score the images and measure their diversity."""
    model = name if name == MODEL else str(folder / _SYSTEMS / name)
    request = Request(model, suite=suite, limit=prompts, seeds=seeds, device="cpu", out=folder / "runs")
    (folder / TABULATED).mkdir(exist_ok=True)
    result = execute_plan(plan_run(request), progress)
    if not result.complete:
        raise TcbenchError(f"{result.path}: {len(result.missing)} images are missing: see its samples/")
    if seeds > 1:
        (reward,) = resolve_rewards([SELECTION])
        measure_diversity(result.run, reward, "cpu", progress)
    write_atomically(folder / TABULATED / name, f"{result.path.name}\n".encode())
    return [folder / TABULATED / name, *_archived_files(result.run, pictures, few_prompts)]


def _run_ceiling(folder: Path, progress: Progress) -> list[Path]:
    """Render true scenes for the samples of the base model's run, and score them."""
    base = RunState(folder / "runs" / (folder / TABULATED / MODEL).read_text(encoding="utf-8").strip())
    run = Ceiling.run(base)
    source = Ceiling(Path(System.find(MODEL).pipeline))
    with locked(run.path):
        generate_images(run, partial(_without_image, base), lambda: source, _BATCH_SIZE, progress)
        run.finish(run.header)
    rewards = resolve_rewards(System.find(MODEL).rewards)
    if not score_run(run.path, rewards, "cpu", progress).complete:
        raise TcbenchError(f"{run.path}: some images or scores are missing")
    write_atomically(folder / TABULATED / CEILING, f"{run.path.name}\n".encode())
    return [folder / TABULATED / CEILING, *_archived_files(run, 0, 0)]


def _without_image(run: RunState, key: Key) -> Sample:
    """Return the record of a sample of another run as it was before its image existed."""
    sample = run.samples[key]
    return replace(sample, text=sample.prompt, image=None, sha256=None, reason=None, truncated=False)


def _archived_files(run: RunState, pictures: int, few_prompts: int) -> list[Path]:
    """Return the files of a run folder, with as many images as pages show.

    Pages show the first images that all their systems have; systems outside the headline have ``few_prompts``
    prompts.
    """
    samples, prompts = run.samples, run.header.planned.prompt_ids
    keys = {
        key
        for count in (len(prompts), few_prompts)
        for key in shown_keys([run], pictures, within=prompts[:count])
    }
    images = [run.image_path(samples[key]) for key in sorted(keys)]
    return [run.path / HEADER, *run.path.glob("samples/*"), *run.path.glob("scores/*/*"), *images]


def _measure_looks(folder: Path, progress: Progress, name: str, prompts: int) -> list[Path]:
    """Measure the colourfulness and darkness of a system's images of the first prompts."""
    from rewards.combine.panel import Panel

    run = RunState(folder / "runs" / (folder / TABULATED / name).read_text(encoding="utf-8").strip())
    panel = Panel([field.name for field in fields(Looks)])
    first = set(run.header.planned.prompt_ids[:prompts])
    planned = [sample for key, sample in sorted(run.samples.items()) if key[0] in first]
    images = [open_image(run.image_path(sample)) for sample in planned]
    means = {name: round(float(scores.mean()), 4) for name, scores in panel.score(images).items()}
    return [Looks(**means).write(folder, name)]


def _write_result(folder: Path, name: str, result: Any) -> Path:
    path = _result_path(folder, name)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, (json.dumps(asdict(result), indent=1) + "\n").encode())
    return path


def _result_path(folder: Path, name: str) -> Path:
    return folder / _RESULTS / f"{name}.json"


TASKS: Mapping[str, Callable[..., list[Path]]] = {
    "renders": _render,
    "best": _best_of_four,
    "trial": _try_rate,
    "train": _train_method,
    "system": _make_system,
    "run": _run_system,
    "ceiling": _run_ceiling,
    "looks": _measure_looks,
}
"""Stable task name, a part of `tcbench.cells.WorkCell.task` -> function. A name is never reused for other
work.
"""
