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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewards.combine.mix import load_mix
from rewards.combine.terms import parse_mix
from rewards.info import RewardInfo
from rewards.registry import info, load
from tcbench.errors import ConfigError, TcbenchError, first_line
from tcbench.files import locked
from tcbench.progress import Progress, Silent
from textcraftor.algorithms.base import Algorithm, ClippedOptimiser, StepResult
from textcraftor.algorithms.ddpo import DDPOAlgorithm
from textcraftor.algorithms.gradient import GradientAlgorithm
from textcraftor.algorithms.latent_scores import LatentScorer
from textcraftor.algorithms.rewriter import RewriterAlgorithm, RewriterPolicy
from textcraftor.algorithms.rollouts import RolloutStart
from textcraftor.calibration import MissingCalibration
from textcraftor.config import (
    WITHOUT_GRADIENT,
    TrainConfig,
)
from textcraftor.diffusion import pipeline as pipelines
from textcraftor.diffusion.devices import find_device
from textcraftor.diffusion.models import Model
from textcraftor.diffusion.prefix_cache import PrefixCache
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.sampling import Denoiser, size_conditioning
from textcraftor.io.checkpoint import LOG, VALIDATION, TrainFolder
from textcraftor.io.pairs import Pairs
from textcraftor.io.provenance import environment
from textcraftor.io.system import rewards_trained_on, write_trained
from textcraftor.ledger import Ledger, WorkCounts, peak_mib
from textcraftor.sources import PromptSource, SampleOrder
from textcraftor.tuned import Trainable, TunedPipeline, WeightAverage
from textcraftor.validation import Validation, Validator

VALIDATION_TIMEOUT = timedelta(hours=6)
"""How long other processes wait for the first one, which validates."""

SKIPPED_LIMIT = 20
"""Samples in a row without finite rewards or gradients after which a run ends."""


class _NotFinite(TcbenchError):
    """Rewards or gradients were not finite for too many samples in a row."""


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

    Returns:
        The finished run.

    Raises:
        TcbenchError: If the configuration cannot be trained, with one line per problem; nothing was changed.
        _NotFinite: If rewards or gradients are no longer finite; the last checkpoint is intact.
    """
    progress, folder = progress or Silent(), TrainFolder(Path(out))
    accelerator = _start_processes(device, config.logging.trackers, folder.path)
    main, device = accelerator.is_main_process, str(accelerator.device)
    with locked(folder.path) if main else nullcontext(), _out_of_memory_advice(device):
        # Rewards, the frozen pipeline, prompts. Errors are reported before anything large is loaded.
        infos = _check_rewards(config)
        pipeline_path = Model.find(config.model).source.find()
        pipeline_sha256 = pipelines.pipeline_sha256(pipeline_path)
        schedule, updates = config.schedule, config.optimiser.updates
        pipe = _load_pipeline(pipeline_path, device, schedule.sampler, schedule.spacing)
        runner = PipelineRunner(pipe, schedule)
        pairs = Pairs.read(Path(config.data.pairs), runner.size) if config.data.pairs else None
        source = prompts if prompts is not None else pairs.source if pairs is not None else None
        if source is None:
            source = PromptSource.find(config.data.prompts)
        held_out = Validator.find_prompts(config.validation, progress, validation)

        # What is trained, and its optimiser
        trained_on = _trained_on(config)
        trainable = _load_trainable(pipe, config, runner.guided, trained_on)
        average = WeightAverage(trainable, config.optimiser.ema)
        optimiser = ClippedOptimiser.adamw(
            accelerator, trainable.trained_parameters().values(), config.optimiser
        )

        # Sampling, scoring, and the algorithm on top of them
        denoiser = Denoiser(pipe.unet, schedule.guidance, size_conditioning(pipe, runner.size))
        mix = load_mix(
            config.rewards.mix,
            calibration=config.rewards.calibration,
            device=device,
            offload=config.memory.offload,
            measure=MissingCalibration(
                config,
                trainable,
                denoiser,
                runner.latent_shape,
                source,
                known=folder.record(),
                main=main,
                progress=progress,
            ),
        )
        selection = config.validation.selection_reward
        selection_reward = load(selection, device=device) if selection else None
        if config.memory.compile:
            denoiser.unet = torch.compile(pipe.unet)
        scorer = LatentScorer(pipe.vae, mix, config.memory.decode_slice, config.rewards.pool)
        cache = PrefixCache.open(
            config.memory.prefix_cache,
            config.memory.prefix_gigabytes,
            pipeline_sha256=pipeline_sha256,
            schedule=schedule,
            precision=config.memory.precision,
        )
        start = RolloutStart(
            denoiser, pipe, runner.latent_shape, schedule, config.memory.checkpointing, cache, pairs
        )
        algorithm = _make_algorithm(config, trainable, start, scorer, optimiser)
        validator = None
        if held_out is not None and main:
            validator = Validator(
                trainable,
                mix,
                selection_reward,
                denoiser,
                runner.latent_shape,
                [held_out.texts[n] for n in range(min(config.validation.prompt_count, len(held_out)))],
                steps=schedule.steps,
                tuned_steps=config.eval_tuned_steps,
                memory=config.memory,
                unet_trained="unet" in config.trainable.parts,
            )

        # Start the folder, or resume from its newest checkpoint
        current = environment(device)
        if main:
            folder.begin(
                {
                    "config": json.loads(json.dumps(asdict(config))),
                    "pipeline_sha256": pipeline_sha256,
                    "prompts": source.name,
                    "prompt_count": len(source),
                    "prompts_sha256": source.sha256,
                    "rewards": {name: mix.panel[name].score_id for name in mix.panel.names},
                    "calibration": MissingCalibration.record(mix),
                    "start_sha256": trainable.start_sha256,
                    "processes": accelerator.num_processes,
                    "environment": current,
                }
            )
        accelerator.wait_for_everyone()
        ledger, done, alarm = Ledger(device=current["device_name"]), 0, ""
        newest = folder.newest()
        if newest is not None:
            _load_state(newest.tensors(device), trainable, average, algorithm, optimiser)
            ledger, done = Ledger(**newest.record["ledger"]), newest.update
            alarm = str(newest.record.get("alarm", ""))
        validations: list[Validation] = []
        if main:
            # log lines after the checkpoint belong to weights that are lost
            folder.forget_after(done if newest is not None else -1)
            validations = [Validation.from_row(row) for row in folder.rows(VALIDATION)]
            if newest is not None and _best_update(done, validations, selection) == done:
                _select(folder, newest.path, config, trained_on)  # it may have been killed before it did

        accelerator.init_trackers("tcbench")
        order = SampleOrder(source, config.seed, config.data.noises, config.data.group)
        progress.stage("training", updates, done)
        skipped_in_a_row = 0
        if done == 0:
            alarm = _validate(validator, 0, validations, folder, progress)
            alarm = _alarm_in_any_process(accelerator, alarm)

        for update in range(done, updates):
            if alarm and config.validation.stop_on_alarm:
                break
            began = time.monotonic()
            lr = optimiser.set_learning_rate(update)

            # Each process trains on its share of the batch
            batch = order.batch(update, config.optimiser.batch)
            batch = batch.share(accelerator.process_index, accelerator.num_processes)
            result = algorithm.step(batch)
            if math.isfinite(result.grad_norm):
                average.update(update)

            # Count the work of all processes, and end a run that no longer learns
            counts = _count_work(accelerator, result, denoiser)
            ledger.add(counts, rewards=len(infos), unet_trained="unet" in config.trainable.parts)
            skipped_in_a_row = skipped_in_a_row + counts.skipped if counts.skipped == counts.samples else 0
            _report_skipped(result, ledger.skipped, skipped_in_a_row, folder.path, progress)

            # Log
            done = update + 1
            ledger.seconds += time.monotonic() - began
            row = {
                "update": update,
                "samples": ledger.samples,
                "skipped": ledger.skipped,
                "unet": ledger.unet,
                "compute": ledger.compute,
                "peak_mib": round(peak_mib(device), 1),
                **result.log_row({name: record.name for name, record in infos.items()}),
            }
            if main:
                row |= {"seconds": round(ledger.seconds, 3), "lr": lr}
                folder.append(LOG, [row])
            accelerator.log({k: v for k, v in row.items() if isinstance(v, float)}, step=done)
            progress.advance()

            # Validate and save
            every = config.validation.every
            validation_due = done == updates or bool(every and done % every == 0)
            if validation_due:
                with average.applied():
                    alarm = _validate(validator, done, validations, folder, progress)
                alarm = _alarm_in_any_process(accelerator, alarm)
            if validation_due or done % config.logging.save_every == 0:
                if main:
                    path = folder.save(
                        done,
                        _state(trainable, average, algorithm, optimiser),
                        {"ledger": asdict(ledger), "alarm": alarm},
                        lambda path: _save_weights(path, trainable, average, config, trained_on),
                        config.logging.keep,
                    )
                    if _best_update(done, validations, selection) == done:
                        _select(folder, path, config, trained_on)
                accelerator.wait_for_everyone()

        accelerator.wait_for_everyone()  # a process that leaves first can end the group of the others
        accelerator.end_training()
        return TrainedRun(folder.path, done, _best_update(done, validations, selection), alarm, main)


# Set-up


def _start_processes(device: str, trackers: tuple[str, ...], folder: Path) -> Any:
    """Return accelerate's handle of this process and the others."""
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    device = find_device(device)
    if ":" in device:
        torch.cuda.set_device(device)  # accelerate uses the current device
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",  # the loop sets precision itself, whatever accelerate is configured to
        gradient_accumulation_steps=1,
        log_with=list(trackers) or None,
        project_dir=str(folder),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=VALIDATION_TIMEOUT)],
    )


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


def _check_rewards(config: TrainConfig) -> dict[str, RewardInfo]:
    """Return the records of the trained rewards by their names in the mix.

    Raises:
        WrongRole: For a judge.
        ConfigError: If there is no reward, one lacks a gradient that the algorithm needs, or the selection
            reward is trained on.
    """
    if not config.rewards.mix:
        raise ConfigError(
            "no rewards to maximise; set rewards.mix (--rewards), such as "
            "pickscore=1,hpsv2=100,clip-cosine=100"
        )
    infos = {name: info(name) for name in parse_mix(config.rewards.mix)}
    for record in infos.values():
        record.check_role("training")
        if not record.differentiable and config.algorithm.name not in WITHOUT_GRADIENT:
            raise ConfigError(
                f"{record.name} has no gradient; choose a differentiable reward (`tcbench ls rewards`), or "
                "reinforcement learning (--profile ddpo)"
            )
    selection = config.validation.selection_reward
    if selection:
        info(selection).check_role("selection")
        if info(selection).name in {record.name for record in infos.values()}:
            raise ConfigError(f"{selection} is trained on; set validation.selection_reward to another reward")
    return infos


def _load_pipeline(folder: Path, device: str, sampler: str, spacing: str) -> Any:
    pipe = pipelines.load_pipeline(folder, device=device, dtype="float32", sampler=sampler, spacing=spacing)
    if device != "cpu":
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    return pipe


def _trained_on(config: TrainConfig) -> list[str] | None:
    return rewards_trained_on(
        config.rewards.mix,
        rewriter=config.trainable.rewriter,
        start=config.trainable.start,
        pairs=config.data.pairs,
        supervised=config.algorithm.name == "denoising",
    )


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
    if config.algorithm.name == "ddpo":
        return DDPOAlgorithm(trainable, *parts, **common, eta=config.schedule.eta)
    return GradientAlgorithm(trainable, *parts, **common)


# Inside the loop


def _count_work(accelerator: Any, result: StepResult, denoiser: Denoiser) -> WorkCounts:
    """Return the work of an update, summed over all processes."""
    samples = len(result.samples)
    counts = [samples, len(result.skipped), samples * result.evaluations, *denoiser.take_counts()]
    totals = accelerator.reduce(torch.tensor(counts, device=accelerator.device), "sum").tolist()
    return WorkCounts(*totals)


def _report_skipped(result: StepResult, total: int, in_a_row: int, folder: Path, progress: Progress) -> None:
    """Note the first skipped sample.

    Raises:
        _NotFinite: If `SKIPPED_LIMIT` samples in a row were skipped.
    """
    texts = [sample.text for sample in result.skipped]
    if texts:
        progress.note(f"skipped {texts[0]!r}: a reward or gradient is not finite ({total} so far)")
    if in_a_row >= SKIPPED_LIMIT:
        example = f", such as {texts[0]!r}" if texts else ""
        raise _NotFinite(
            f"the last {in_a_row} samples have rewards or gradients that are not finite{example}; lower "
            f"optimiser.lr or set memory.precision = float32; {folder} has the last checkpoint"
        )


def _validate(
    validator: Validator | None,
    update: int,
    validations: list[Validation],
    folder: TrainFolder,
    progress: Progress,
) -> str:
    """Validate, log it, and append it to ``validations``.

    Returns:
        The over-optimisation alarm; "" if there is none.
    """
    if validator is None:
        return ""
    result, images = validator.validate(update, validations[0] if validations else None)
    alarm = ""
    if validator.selection_reward is not None:
        alarm = result.over_optimisation_alarm(validations, validator.selection_reward.info.name)
    validations.append(result)
    folder.append(VALIDATION, [result.to_row()])
    Validator.save_images(images, folder.path / "samples" / f"{update:06d}.png")
    progress.note(result.summary())
    if alarm:
        progress.note(alarm)
    return alarm


def _alarm_in_any_process(accelerator: Any, alarm: str) -> str:
    """Return the alarm in every process; only the first one validates."""
    flag = torch.tensor([float(bool(alarm))], device=accelerator.device)
    return alarm or ("alarm" if float(accelerator.reduce(flag, "sum")[0]) else "")


# Checkpoints


def _best_update(done: int, validations: Sequence[Validation], selection: str) -> int:
    """Return the update of the checkpoint to use: selected by validation, otherwise the newest."""
    tuned = [validation for validation in validations if validation.update > 0]
    return Validation.select(tuned, info(selection).name).update if selection and tuned else done


def _select(
    folder: TrainFolder, checkpoint: Path, config: TrainConfig, trained_on: Sequence[str] | None
) -> None:
    """Make a checkpoint the run's best."""
    folder.choose(checkpoint)
    write_trained(folder.path, folder.path / "best", config, trained_on)


def _save_weights(
    folder: Path,
    trainable: Trainable,
    average: WeightAverage,
    config: TrainConfig,
    trained_on: Sequence[str] | None,
) -> None:
    """Write the weights to sample with: averaged ones if averaging is on."""
    trained = {name: p.detach() for name, p in trainable.trained_parameters().items()}
    trainable.save(folder, average.values or trained)
    write_trained(folder, folder, config, trained_on)


def _state(
    trainable: Trainable, average: WeightAverage, algorithm: Algorithm, optimiser: ClippedOptimiser
) -> dict[str, Tensor]:
    """Return everything that training resumes from."""
    trained = {name: p.detach() for name, p in trainable.trained_parameters().items()}
    groups = {
        "trained": trained,
        "average": average.values,
        "learner": algorithm.state(),
        "optimiser": optimiser.state(),
    }
    return {f"{group}.{name}": value for group, state in groups.items() for name, value in state.items()}


def _load_state(
    state: Mapping[str, Tensor],
    trainable: Trainable,
    average: WeightAverage,
    algorithm: Algorithm,
    optimiser: ClippedOptimiser,
) -> None:
    """Resume from what `_state` returned."""

    def group(name: str) -> dict[str, Tensor]:
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    trainable.load_values(group("trained"))
    average.load_state(group("average"))
    if learner := group("learner"):
        algorithm.load_state(learner)
    optimiser.load_state(group("optimiser"))
