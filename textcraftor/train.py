"""TextCraftor's loop: draw, reward, pull the text encoder (Li et al. 2024, algorithm 1).

    from textcraftor.config import make_config
    from textcraftor.train import train

    train(make_config("micro", updates=100), "out")

An update's samples and noises follow from (seed, update) alone, and all else is in its checkpoint: a run that
was killed ends with the very weights of one that was not (CPU, same batches).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcbench.errors import ConfigError
from tcbench.files import locked
from tcbench.progress import Progress, Silent
from textcraftor.algorithms.ddpo import PolicyLearner
from textcraftor.algorithms.goal import NotFinite
from textcraftor.algorithms.learners import GradientLearner, Learner, Made, Stepper
from textcraftor.algorithms.objective import Objective, Outcome
from textcraftor.algorithms.rewriter import TunedWriter, WritingLearner
from textcraftor.config import TrainConfig
from textcraftor.diffusion import pipeline as pipelines
from textcraftor.diffusion.devices import find_device
from textcraftor.diffusion.models import find_model
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.diffusion.sampling import Denoiser
from textcraftor.diffusion.schedule import Schedule
from textcraftor.io.checkpoint import LOG, VALIDATION, Checkpoint, TrainFolder
from textcraftor.io.pairs import read_pairs
from textcraftor.io.provenance import environment
from textcraftor.io.system import write_trained
from textcraftor.ledger import Ledger, peak_mib
from textcraftor.prepare import (
    check_rewards,
    completed,
    find_held,
    learning_rate,
    load_rewards,
    prefix_cache,
    start_sha256,
    time_ids,
)
from textcraftor.sources import Order, PromptSource, Sample, find_prompts
from textcraftor.tuned import Trainee, Tuned
from textcraftor.validation import Validation, Validator, alarm, chosen, save_grid

__all__ = ["TrainConfig", "Trained", "train"]

VALIDATION_PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which validates."""

LEARNERS: Mapping[str, Callable[[Objective], Learner]] = {"ddpo": PolicyLearner, "rewriting": WritingLearner}
"""By estimator; any other learns by the rewards' gradients."""

SKIPPED_LIMIT = 20
"""Samples in a row without finite rewards or gradients after which a run ends."""


@dataclass(frozen=True)
class Trained:
    """How a run ended: its folder, the updates made, the best checkpoint's, and why it ended early."""

    path: Path
    updates: int
    best: int
    alarm: str = ""
    main: bool = True
    """Whether this is the process that writes and reports."""


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    prompts: PromptSource | None = None,
    validation: PromptSource | None = None,
) -> Trained:
    """Tune as ``config`` says and keep everything in the folder ``out``; the same call again goes on.

    ``prompts`` and ``validation`` take the place of the sources that the configuration names. Under
    ``accelerate launch`` every process calls it. Raises ValueError, in one line, for what cannot be done.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    found = find_device(device)
    if ":" in found:
        torch.cuda.set_device(found)  # accelerate takes the current one
    accelerator = Accelerator(
        cpu=found == "cpu",
        mixed_precision="no",  # precision is this loop's own, whatever accelerate is configured to
        gradient_accumulation_steps=1,
        log_with=list(config.trackers) or None,
        project_dir=str(out),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=VALIDATION_PATIENCE),
        ],
    )
    holds = locked(Path(out)) if accelerator.is_main_process else nullcontext()
    with holds:
        try:
            return _Run(config, Path(out), accelerator, progress or Silent(), prompts, validation).go()
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"out of memory on {accelerator.device} ({str(error).splitlines()[0]}): lower micro_batch, "
                "set checkpointing = true, decode_slice = 1, precision = bfloat16 or offload = true; the "
                "last checkpoint is whole"
            ) from error


class _Run:
    """One process's part of a training run."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        accelerator: Any,
        progress: Progress,
        prompts: PromptSource | None,
        validation: PromptSource | None,
    ) -> None:
        self.accelerator, self.progress, self.folder = accelerator, progress, TrainFolder(out)
        self.device = str(accelerator.device)
        model = find_model(config.model)
        self.config = config = completed(config, model)
        self.pipeline = pipelines.find_pipeline(model.source)
        self.infos = check_rewards(config)
        pipe = self._load()
        drawing = PipelineRunner(
            pipe, Schedule(config.sampler, config.steps, config.guidance or 0.0, config.size)
        )
        self.pairs = read_pairs(Path(config.pairs), drawing.size) if config.pairs else None
        self.source = prompts or (self.pairs.source if self.pairs else find_prompts(config.prompts))
        held = validation or find_held(config, progress)
        self.tuned: Trainee = (TunedWriter if config.rewriter else Tuned)(pipe, config, drawing.guided)
        if config.start:
            self.tuned.start_from(Path(config.start))
        if config.precision != "float32":  # of what is frozen; text encoders are small, and stay as they are
            pipe.vae.to(getattr(torch, config.precision))
            if "unet" not in config.trains:
                pipe.unet.to(getattr(torch, config.precision))
        self.mix, self.selection = load_rewards(config, self.device)
        self.denoiser = Denoiser(pipe.unet, config.guidance or 0.0, time_ids(pipe, drawing))
        if config.compile:
            self.denoiser.unet = torch.compile(pipe.unet)
        objective = Objective(
            self.tuned,
            config,
            self.mix,
            self.denoiser,
            drawing.latent_shape,
            prefix_cache(config, self.pipeline),
            self.pairs,
        )
        self.learner: Learner = LEARNERS.get(config.estimator, GradientLearner)(objective)
        self.validator = self._validator(drawing.latent_shape, held) if held else None
        self.order = Order(self.source, config.seed, config.noises, config.group)
        self.parameters = self.tuned.trained()
        self.optimiser = torch.optim.AdamW(
            list(self.parameters.values()), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.stepper = Stepper(accelerator, self.optimiser, self.parameters.values(), config.clip)
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()} if config.ema else {}
        self.ledger = Ledger(device=environment(self.device)["device_name"])
        self.in_a_row = 0

    def go(self) -> Trained:
        """From the newest checkpoint, or the beginning, to the end."""
        config, main = self.config, self.accelerator.is_main_process
        if main:
            self.folder.begin(self._record())
        self.accelerator.wait_for_everyone()
        update = self._restore()
        validations = [Validation.of(row) for row in self.folder.rows(VALIDATION)] if main else []
        newest = self.folder.newest()
        if main and newest is not None:
            self._choose(newest.path, update, validations)  # it may have been killed before it did
        module = self.accelerator.prepare(self.learner.module)
        self.accelerator.init_trackers("tcbench")
        rate = learning_rate(config)
        self.progress.stage("training", config.updates, update)
        warned = self._validate(0, validations) if update == 0 else self._stopped(newest)
        while update < config.updates and not (warned and config.stop_on_alarm):
            began = time.monotonic()
            for group in self.optimiser.param_groups:
                group["lr"] = config.lr * rate(update)
            row = self._update(module, update)
            update += 1
            self.ledger.seconds += time.monotonic() - began
            if main:
                row |= {"seconds": round(self.ledger.seconds, 3), "lr": self.optimiser.param_groups[0]["lr"]}
                self.folder.append(LOG, [row])
            self.accelerator.log({k: v for k, v in row.items() if isinstance(v, float)}, step=update)
            self.progress.advance()
            every = config.validate_every
            due = update == config.updates or bool(every and update % every == 0)
            if due:
                warned = self._validate(update, validations)
            if due or update % config.save_every == 0:
                self._save(update, validations, warned)
        self.accelerator.wait_for_everyone()  # a process that leaves first can take the others' group with it
        self.accelerator.end_training()
        return Trained(self.folder.path, update, self._best(update, validations), warned, main)

    # one update

    def _update(self, module: Any, update: int) -> dict[str, Any]:
        """Learn from the update's samples. Returns its line of the log."""
        mine = _share(self.order.batch(update, self.config.batch), self.accelerator)
        made = self.learner.update(module, mine, update, self.stepper)
        finite = math.isfinite(made.norm)
        if finite:
            self._follow(update)
        self._count(made.outcomes, finite=finite)
        return self._line(update, made)

    def _follow(self, update: int) -> None:
        """The averaged weights follow the trained ones, faster at first: they begin as the original's."""
        decay = min(self.config.ema, (1 + update) / (10 + update))
        for name, value in self.average.items():
            value.lerp_(self.parameters[name].detach(), 1 - decay)

    def _count(self, outcomes: Sequence[tuple[Sequence[Sample], Outcome]], *, finite: bool) -> None:
        """Keep the ledger; end the run when nothing is finite any more. Raises NotFinite."""
        ledger, denoiser = self.ledger, self.denoiser
        skipped = [s for samples, outcome in outcomes for s in map(samples.__getitem__, outcome.skipped)]
        if not finite:
            skipped = [sample for samples, _ in outcomes for sample in samples]
        count = sum(len(samples) for samples, _ in outcomes)
        looks = sum(len(samples) * outcome.looks for samples, outcome in outcomes)
        rows = [count, denoiser.calls, denoiser.graphs, len(skipped), looks, denoiser.saved]
        totals = self.accelerator.reduce(torch.tensor(rows, device=self.device), "sum").tolist()
        denoiser.calls = denoiser.graphs = denoiser.saved = 0
        ledger.samples += totals[0]
        ledger.unet_forwards += totals[1]
        ledger.unet_backwards += totals[2] * (2 if "unet" in self.config.trains else 1)
        ledger.reward_calls += totals[4] * len(self.infos)
        ledger.decodes += totals[4]
        ledger.skipped += totals[3]
        ledger.unet_saved += totals[5]
        self.in_a_row = self.in_a_row + totals[3] if totals[3] == totals[0] else 0
        for sample in skipped[:1]:
            self.progress.note(
                f"a reward or gradient of {sample.text!r} is not finite: left out ({ledger.skipped} so far)"
            )
        if self.in_a_row >= SKIPPED_LIMIT:
            raise NotFinite(
                f"the last {self.in_a_row} samples gave rewards or gradients that are not finite, such as "
                f"{(skipped or [Sample(0, 0, '', 0)])[0].text!r}: lower lr, or set precision = float32; "
                f"{self.folder.path} keeps the last checkpoint"
            )

    def _line(self, update: int, made: Made) -> dict[str, Any]:
        """The update's line of the log."""
        return {
            "update": update,
            "samples": self.ledger.samples,
            "skipped": self.ledger.skipped,
            "unet": self.ledger.unet,
            "compute": self.ledger.compute,
            "peak_mib": round(peak_mib(self.device), 1),
            **made.means({name: info.name for name, info in self.infos.items()}),
        }

    # validation and checkpoints

    def _stopped(self, newest: Checkpoint | None) -> str:
        """The alarm that the run had ended with."""
        return str(newest.record.get("alarm", "")) if newest else ""

    def _validate(self, update: int, validations: list[Validation]) -> str:
        """Validate. Returns the alarm, if there is one; in every process."""
        warned = ""
        if self.validator is not None and self.accelerator.is_main_process:
            calls = self.denoiser.calls, self.denoiser.graphs
            with self._averaged():
                found, images = self.validator.measure(update, validations)
            self.denoiser.calls, self.denoiser.graphs = calls  # watching is no cost of training
            if self.selection is not None:
                warned = alarm(found, validations, self.selection.info.name)
            validations.append(found)
            self.folder.append(VALIDATION, [found.record()])
            save_grid(images, self.folder.path / "samples" / f"{update:06d}.png")
            self.progress.note(found.summary())
            if warned:
                self.progress.note(warned)
        flag = torch.tensor([float(bool(warned))], device=self.device)
        return warned or ("alarm" if float(self.accelerator.reduce(flag, "sum")[0]) else "")

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within it, the averaged weights are in place of the trained ones, if there are any."""
        kept = {name: self.parameters[name].detach().clone() for name in self.average}
        if self.average:
            self.tuned.restore(self.average)
        try:
            yield
        finally:
            if self.average:
                self.tuned.restore(kept)

    def _save(self, update: int, validations: Sequence[Validation], warned: str) -> None:
        if self.accelerator.is_main_process:
            values = self.average or {name: p.detach() for name, p in self.parameters.items()}

            def write(folder: Path) -> None:
                self.tuned.save(folder, values)
                write_trained(folder, folder, self.config)

            record = {"ledger": asdict(self.ledger), "alarm": warned}
            path = self.folder.save(update, self._tensors(), record, write, self.config.keep)
            self._choose(path, update, validations)
        self.accelerator.wait_for_everyone()

    def _choose(self, path: Path, update: int, validations: Sequence[Validation]) -> None:
        """Make this checkpoint the run's best, if it is."""
        if self._best(update, validations) == update:
            self.folder.choose(path)
            write_trained(self.folder.path, self.folder.path / "best", self.config)

    def _best(self, update: int, validations: Sequence[Validation]) -> int:
        """The update of the checkpoint to use: what the selection reward chose, else the newest."""
        tuned = [found for found in validations if found.update > 0]
        if self.selection is None or not tuned:
            return update
        return chosen(tuned, self.selection.info.name).update

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that training goes on from."""
        tensors = {f"trained.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"learner.{name}": value for name, value in self.learner.tensors().items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.stepper.tensors().items()}
        return tensors

    def _restore(self) -> int:
        """Take up the newest checkpoint; returns the updates that were made."""
        newest = self.folder.newest()
        if newest is None:
            if self.accelerator.is_main_process:
                self.folder.forget_after(-1)
            return 0
        tensors = newest.tensors(self.device)
        self.tuned.restore(_under("trained.", tensors))
        for name, value in _under("average.", tensors).items():
            self.average[name].copy_(value)
        if kept := _under("learner.", tensors):
            self.learner.restore(kept)
        self.stepper.restore(_under("optimiser.", tensors))
        self.ledger = Ledger(**newest.record["ledger"])
        if self.accelerator.is_main_process:
            self.folder.forget_after(newest.update)
        return newest.update

    # what a run is made of

    def _load(self) -> Any:
        config = self.config
        pipe = pipelines.load_pipeline(
            self.pipeline,
            device=self.device,
            dtype="float32",
            sampler=config.sampler,
            spacing=config.spacing,
        )
        if self.device != "cpu":
            pipe.unet.to(memory_format=torch.channels_last)
            pipe.vae.to(memory_format=torch.channels_last)
        return pipe

    def _validator(self, latent_shape: tuple[int, int, int], source: PromptSource) -> Validator:
        return Validator(
            self.tuned, self.config, self.mix, self.selection, self.denoiser, latent_shape, source
        )

    def _record(self) -> dict[str, Any]:
        config = self.config
        return {
            "config": json.loads(json.dumps(asdict(config))),
            "pipeline_sha256": pipelines.pipeline_sha256(self.pipeline),
            "prompts": self.source.name,
            "prompt_count": len(self.source),
            "prompts_sha256": self.source.sha256,
            "rewards": {name: self.mix.panel[name].score_id for name in self.mix.panel.names},
            "start_sha256": start_sha256(config),
            "processes": self.accelerator.num_processes,
            "environment": environment(self.device),
        }


def _share(samples: Sequence[Sample], accelerator: Any) -> Sequence[Sample]:
    """This process's samples of an update. Raises ConfigError if they cannot be shared equally."""
    count = accelerator.num_processes
    if len(samples) % count:
        raise ConfigError(f"batch is {len(samples)}, which {count} processes cannot share; take a multiple")
    return samples[accelerator.process_index :: count]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
