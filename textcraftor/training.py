"""The training loop: sample, score, and update the text encoder (Li et al. 2024, algorithm 1).

    import textcraftor

    config = textcraftor.make_config("micro", profile="quick")
    textcraftor.train(config, "out")

The samples of an update follow from the seed and its number, and everything else is in the checkpoint: a run
that was killed and resumed has bit-identical weights (CPU, same number of threads).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewards.combine.mix import RewardMix, load_mix
from tcbench.errors import ConfigError, first_line
from tcbench.files import locked
from tcbench.progress import Progress, Silent
from textcraftor.algorithms.base import Algorithm, ClippedOptimiser
from textcraftor.algorithms.constraints import Constraints
from textcraftor.algorithms.gradient import GradientAlgorithm
from textcraftor.algorithms.latent_scores import LatentScorer
from textcraftor.algorithms.nft import NFTAlgorithm
from textcraftor.algorithms.policy_gradient import PolicyGradientAlgorithm
from textcraftor.algorithms.rewriter import RewriterAlgorithm, RewriterPolicy
from textcraftor.algorithms.rollouts import RolloutStart
from textcraftor.calibration import MissingCalibration
from textcraftor.config import TrainConfig
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prefix_cache import PrefixCache
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.sampling import Denoiser
from textcraftor.diffusion.schedule import Schedule
from textcraftor.inputs import TrainInputs
from textcraftor.io.checkpoint import LOG, TrainFolder
from textcraftor.io.provenance import environment
from textcraftor.io.system import write_trained
from textcraftor.ledger import Ledger
from textcraftor.processes import Processes
from textcraftor.settings import ON_DECISIONS
from textcraftor.sources import PromptSource, SampleOrder
from textcraftor.tuned import Trainable, TunedPipeline, WeightAverage
from textcraftor.updates import LearningWatch, UpdateTotals
from textcraftor.validation import Validations, Validator


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run."""

    path: Path
    """The run's folder; it is a model for `tcbench run --model`."""
    updates: int
    """Number of updates."""
    best: int
    """Number of updates of the selected checkpoint."""
    alarm: str = ""
    """The over-optimisation alarm of the last validation; "" if there was none."""
    main: bool = True
    """Whether this is the process that writes and reports."""


def train(  # noqa: C901 - one flat loop, to be read top to bottom
    config: TrainConfig,
    out: Path | str,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    prompts: PromptSource | None = None,
    validation: PromptSource | None = None,
    suites: Callable[[str, bool], PromptSource] | None = None,
    dry_run: bool = False,
) -> TrainedRun:
    """Train, and keep everything in the folder ``out``. Call it again to resume.

    Under ``accelerate launch`` every process calls it; the first one validates and writes.

    Args:
        config: The configuration, see `textcraftor.config.make_config`.
        out: The run's folder.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        progress: Receives the number of updates and notes.
        prompts: Training prompts in place of those that the configuration names.
        validation: Validation prompts in place of those that the configuration names; not used with
            ``validation.every = 0``.
        suites: Reads the prompt suites that the configuration names, see `PromptSource.find`; None: only the
            embedded ones are known.
        dry_run: Do everything up to the first update, without downloads and without writing anything.

    Returns:
        The finished run.

    Raises:
        TcbenchError: If the configuration cannot be trained, with one line per problem, and nothing was
            changed; or if rewards or gradients are no longer finite, and the last checkpoint is intact.
        KeyboardInterrupt: On SIGINT (Ctrl-C) or SIGTERM, after the last finished update was saved.
    """
    folder = TrainFolder(Path(out))
    processes = Processes(device, config.logging.trackers, folder.path)
    accelerator, main, device = processes.accelerator, processes.main, processes.device
    progress = progress if progress is not None and main else Silent()
    with ExitStack() as stack:
        stack.enter_context(_out_of_memory_advice(device))

        # Rewards, files and prompts. Errors are reported before anything large is downloaded or loaded.
        inputs = TrainInputs.find(
            config,
            processes.count,
            progress,
            folder if main else None,
            fetch=not dry_run,
            prompts=prompts,
            validation=validation,
            suites=suites,
        )
        if main and not dry_run:
            stack.enter_context(locked(folder.path))
        schedule, updates, source = config.schedule, config.optimiser.updates, inputs.prompts

        # The frozen pipeline, what is trained, and its optimiser
        pipe = _load_pipeline(inputs.pipeline, schedule, device)
        runner = PipelineRunner(pipe, schedule)
        trainable = _load_trainable(pipe, config, runner.guided, inputs.trained_on)
        average = WeightAverage(trainable, config.optimiser.ema)
        optimiser = ClippedOptimiser.adamw(
            accelerator, trainable.trained_parameters().values(), config.optimiser
        )

        # Sampling, scoring, and the algorithm on top of them
        denoiser = Denoiser.of_pipeline(pipe, schedule.guidance, runner.size)
        measure = MissingCalibration(
            config,
            trainable,
            denoiser,
            runner.latent_shape,
            source,
            known=folder.record(),
            main=main,
            progress=progress,
            dry_run=dry_run,
        )
        mix = load_mix(
            config.rewards.mix,
            calibration=config.rewards.calibration,
            device=device,
            offload=config.memory.offload,
            measure=measure,
        )
        validator = None
        if main and inputs.validation is not None:
            validator = Validator.of_run(
                config, inputs.validation, trainable, mix, denoiser, runner.latent_shape
            )
        if config.memory.compile:
            denoiser.unet = torch.compile(pipe.unet)
        constraints = Constraints(config.rewards.constraints)
        scorer = LatentScorer(
            pipe.vae,
            mix,
            config.memory.decode_slice,
            config.rewards.pool,
            config.rewards.balance,
            constraints.multipliers,
        )
        cache = None if dry_run else PrefixCache.open(config.memory, schedule, inputs.pipeline_sha256)
        start = RolloutStart(
            denoiser,
            pipe,
            runner.latent_shape,
            schedule,
            config.memory.checkpointing,
            config.algorithm.bound_gradients,
            cache,
            inputs.pairs,
        )
        algorithm = _make_algorithm(config, trainable, start, scorer, optimiser, constraints)
        state = _TrainState(trainable, average, algorithm, optimiser)

        # Start the folder, or resume from its newest checkpoint
        current = environment(device)
        if main:
            record = _record(config, inputs, mix, trainable)
            if measure.placeholders:
                del record["calibration"]  # a dry run does not know it
            record |= {"processes": processes.count, "environment": current}
            folder.begin(record, write=not dry_run)
        accelerator.wait_for_everyone()
        ledger, done, newest = Ledger(device=current["device_name"]), 0, folder.newest()
        if newest is not None:
            state.load(newest.tensors(device))
            ledger, done = Ledger(**newest.record["ledger"]), newest.update
        if dry_run:
            return TrainedRun(folder.path, done, done, main=main)
        if main:
            # log lines after the checkpoint belong to weights that are lost
            folder.forget_after(done if newest is not None else -1)
        validations = Validations(validator, config, folder, processes, progress)

        accelerator.init_trackers("tcbench")
        order = SampleOrder(source, config.seed, config.data.noises, config.data.group)
        names = {name: record.name for name, record in inputs.rewards.items()}
        terms = {} if config.algorithm.name == "denoising" else mix.terms
        watch = LearningWatch(terms, names, order, folder.path, progress, learned=done > 0)
        progress.stage("training", updates, done)
        stack.enter_context(processes.interruptible())

        # Validate before the first update, or what was interrupted before its validation
        with average.applied():
            alarm = validations.run(done)
        if main and newest is not None and validations.best(done) == done:
            _select(folder, newest.path, config, inputs)  # it may have been killed before it did

        interrupted = False
        for update in range(done, updates):
            if alarm and config.validation.stop_on_alarm:
                break
            began = time.monotonic()
            lr = optimiser.set_learning_rate(update)

            # Each process trains on its share of the batch
            batch = order.batch(update, config.optimiser.batch).share(processes.index, processes.count)
            result = algorithm.step(batch)
            if math.isfinite(result.grad_norm):
                average.update(update)

            # Sum up over all processes, and end a run that no longer learns
            done = update + 1
            totals = UpdateTotals.gather(processes, result, mix, names, denoiser.take_counts())
            ledger.add(totals, rewards=len(names), unet_trained="unet" in config.trainable.parts)
            watch.check(totals, ledger.skipped, last=done == updates)

            # Log
            ledger.seconds += time.monotonic() - began
            row = {"update": update, **ledger.row, **totals.row}
            if main:
                row |= {"seconds": round(ledger.seconds, 3), "lr": lr}
                folder.append(LOG, [row])
            accelerator.log({k: v for k, v in row.items() if isinstance(v, float)}, step=done)
            progress.advance(1, totals.summary)

            # Validate and save; an interrupted run saves only, and is validated when it is resumed
            interrupted, validation_due = totals.interrupted, validations.due(done)
            if validation_due and not interrupted:
                with average.applied():
                    alarm = validations.run(done)
                interrupted = processes.any(processes.interrupted)
            if validation_due or interrupted or done % config.logging.save_every == 0:
                if main:
                    path = _save(folder, done, state, ledger, config, inputs)
                    if validations.best(done) == done:
                        _select(folder, path, config, inputs)
                accelerator.wait_for_everyone()
            if interrupted:
                break

        accelerator.wait_for_everyone()  # a process that leaves first can end the group of the others
        accelerator.end_training()
        if interrupted:
            raise KeyboardInterrupt(f"saved {folder.path} after {done} updates")
        return TrainedRun(folder.path, done, validations.best(done), alarm, main)


# Set-up


@contextmanager
def _out_of_memory_advice(device: str) -> Iterator[None]:
    """Turn an out-of-memory error into one that says which settings save memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"out of memory on {device} ({first_line(error)}); lower memory.micro_batch, or set "
            "memory.checkpointing = true, memory.decode_slice = 1, memory.precision = bfloat16 or "
            "memory.offload = true; the last checkpoint is intact"
        ) from error


def _load_pipeline(folder: Path, schedule: Schedule, device: str) -> Any:
    pipe = load_pipeline(
        folder, device=device, dtype="float32", sampler=schedule.sampler, spacing=schedule.spacing
    )
    if device != "cpu":
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    return pipe


def _load_trainable(
    pipe: Any, config: TrainConfig, guided: bool, trained_on: Sequence[str] | None
) -> Trainable:
    """Return what is trained, with the weights that it starts from, and cast what is frozen."""
    settings, precision = config.trainable, config.memory.precision
    trainable: Trainable
    if settings.rewriter:
        trainable = RewriterPolicy(
            pipe, settings.rewriter, guided=guided, seed=config.seed, trained_on=trained_on
        )
    else:
        tuned = TunedPipeline(pipe, settings, guided=guided, seed=config.seed)
        if settings.start:
            tuned.load_checkpoint(Path(settings.start))
        trainable = tuned
    if precision != "float32":
        # frozen weights only: trained ones need the resolution, and text encoders are small
        pipe.vae.to(getattr(torch, precision))
        if "unet" not in settings.parts:
            pipe.unet.to(getattr(torch, precision))
    return trainable


def _make_algorithm(
    config: TrainConfig,
    trainable: Trainable,
    start: RolloutStart,
    scorer: LatentScorer,
    optimiser: ClippedOptimiser,
    constraints: Constraints,
) -> Algorithm:
    parts = (start, scorer, optimiser, config.algorithm)
    common: dict[str, Any] = {
        "seed": config.seed,
        "group": config.data.group,
        "micro_batch": config.memory.micro_batch,
        "precision": config.memory.precision,
    }
    if isinstance(trainable, RewriterPolicy):
        return RewriterAlgorithm(trainable, *parts, **common)
    if config.algorithm.name in ON_DECISIONS:
        return PolicyGradientAlgorithm(trainable, *parts, **common, eta=config.schedule.eta)
    if config.algorithm.name == "nft":
        return NFTAlgorithm(trainable, *parts, **common)
    return GradientAlgorithm(trainable, *parts, **common, constraints=constraints)


# Record and checkpoints


def _record(config: TrainConfig, inputs: TrainInputs, mix: RewardMix, trainable: Trainable) -> dict[str, Any]:
    """Return the entries of train.json that a resumed run is compared with."""
    return {
        "config": json.loads(json.dumps(asdict(config))),
        "pipeline_sha256": inputs.pipeline_sha256,
        "prompts": inputs.prompts.name,
        "prompt_count": len(inputs.prompts),
        "prompts_sha256": inputs.prompts.sha256,
        "rewards": {name: mix.panel[name].score_id for name in mix.panel.names},
        "calibration": mix.scales,
        "start_sha256": trainable.start_sha256,
    }


@dataclass(frozen=True)
class _TrainState:
    """Everything that updates change, beside the ledger."""

    trainable: Trainable
    average: WeightAverage
    algorithm: Algorithm
    optimiser: ClippedOptimiser

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Return the state to resume from, in named groups."""
        return {
            "trained": self._trained(),
            "average": self.average.values,
            "learner": self.algorithm.state(),
            "optimiser": self.optimiser.state(),
        }

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Resume from what `tensors` returned; a group may be empty."""
        self.trainable.load_values(tensors["trained"])
        self.average.load_state(tensors["average"])
        if tensors["learner"]:
            self.algorithm.load_state(tensors["learner"])
        self.optimiser.load_state(tensors["optimiser"])

    def save_weights(self, folder: Path) -> None:
        """Write the weights to sample with: averaged ones if averaging is on."""
        self.trainable.save(folder, self.average.values or self._trained())

    def _trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.trainable.trained_parameters().items()}


def _save(
    folder: TrainFolder,
    done: int,
    state: _TrainState,
    ledger: Ledger,
    config: TrainConfig,
    inputs: TrainInputs,
) -> Path:
    """Write a checkpoint, which is also a system to sample with, and return its folder."""

    def write(path: Path) -> None:
        state.save_weights(path)
        write_trained(path, path, config, inputs.trained_on)

    return folder.save(done, state.tensors(), {"ledger": asdict(ledger)}, write, config.logging.keep)


def _select(folder: TrainFolder, checkpoint: Path, config: TrainConfig, inputs: TrainInputs) -> None:
    """Make a checkpoint the run's best."""
    folder.choose(checkpoint)
    write_trained(folder.path, folder.path / "best", config, inputs.trained_on)
