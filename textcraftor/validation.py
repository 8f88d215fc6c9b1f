"""Periodic validation on fixed prompts and noises, checkpoint selection, and the over-optimisation alarm."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import pstdev
from typing import Any

import torch
from torch import Tensor, nn

from leaderboards.stats import Estimate, mean_intervals
from rewards.base import Reward
from rewards.combine.mix import RewardMix
from rewards.preprocess import to_bytes
from rewards.registry import info, load
from tcbench.errors import ConfigError
from tcbench.progress import Progress
from textcraftor.algorithms.base import TRAINED
from textcraftor.algorithms.latent_scores import decode_latents
from textcraftor.config import TrainConfig
from textcraftor.curves import save_curves
from textcraftor.diffusion.prompts import noise_seed
from textcraftor.diffusion.sampling import Denoiser, Rollout, autocast
from textcraftor.io.checkpoint import VALIDATION, TrainFolder
from textcraftor.processes import Processes
from textcraftor.settings import MemorySettings
from textcraftor.sources import PromptSource
from textcraftor.tuned import Trainable

NOISES = 2
"""Images of each prompt: the smallest number for which diversity is defined."""

BATCH = 8
"""Images that are sampled and scored at a time."""

MARGIN = 0.2
"""Fall of the selection reward that is accepted, in its standard deviation over prompts: a small effect."""

VALIDATION_SEED = 7
"""Base seed of the validation noise, which no training run uses."""


@dataclass(frozen=True)
class Validation:
    """Result of one validation of P prompts."""

    update: int
    """Number of updates before it."""
    scores: Mapping[str, Sequence[float | None]]
    """Scores (P,) by reward, the mean over a prompt's images; under "trained" the reward mix. None: not
    finite.
    """
    diversity: float | None
    """1 - mean cosine similarity of the selection reward's embeddings of one prompt's images; None: the
    reward has no embeddings.
    """
    drift: float
    """Distance of the embeddings from the original ones."""
    changes: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """By reward, the mean change since the first validation, paired by prompt, and the ends of its 95 %
    interval.
    """

    @property
    def means(self) -> dict[str, float | None]:
        """Mean score over prompts by reward; None if no prompt has a score."""
        return {name: _mean([v for v in values if v is not None]) for name, values in self.scores.items()}

    def rank(self, name: str) -> float:
        """Return the mean score of a reward, -inf if there is none, for comparisons."""
        mean = self.means[name]
        return -math.inf if mean is None else mean

    def summary(self) -> str:
        """Summarise in one line: means at update 0, later changes since then; diversity and drift."""
        if self.update == 0:
            parts = [f"{name} {mean:.4g}" for name, mean in self.means.items() if mean is not None]
        else:
            parts = [
                f"{name} {mean:+.3g} ({low:+.2g} to {high:+.2g})"
                for name, (mean, low, high) in self.changes.items()
                if mean is not None and low is not None and high is not None
            ]
        diversity = "" if self.diversity is None else f", diversity {self.diversity:.3f}"
        return f"validation at {self.update}: {', '.join(parts)}{diversity}, drift {self.drift:.3g}"

    def to_row(self) -> dict[str, Any]:
        """Return a line of validation.jsonl."""
        return asdict(self) | {"means": self.means}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Validation:
        """Read a line of validation.jsonl."""
        return cls(**{name: value for name, value in row.items() if name != "means"})

    @staticmethod
    def select(validations: Sequence[Validation], selection_reward: str) -> Validation:
        """Select the latest checkpoint that is not clearly below the best by the selection reward.

        Small differences and those within chance do not decide: among checkpoints that are equally good by
        this measure, the latest has learnt most.
        """
        best = max(validations, key=lambda validation: validation.rank(selection_reward))
        return [v for v in validations if not v._clearly_below(best, selection_reward)][-1]

    def over_optimisation_alarm(self, earlier: Sequence[Validation], selection_reward: str) -> str:
        """Check whether training raises its own rewards at the cost of the selection reward.

        Returns:
            A one-line warning if the selection reward is clearly below its best while the trained rewards
            are above their value there; otherwise "".
        """
        if not earlier:
            return ""
        best = max(earlier, key=lambda validation: validation.rank(selection_reward))
        fall, rise = _paired_change(self, best, selection_reward), _paired_change(self, best, TRAINED)
        if not self._clearly_below(best, selection_reward) or not rise.value > 0:  # also if that is NaN
            return ""
        return (
            f"over-optimisation: since update {best.update} the selection reward {selection_reward} fell by "
            f"{-fall.value:.3g} (95 %: {-fall.high:.3g} to {-fall.low:.3g}) while the trained rewards rose "
            f"by {rise.value:.3g}; lower optimiser.lr or optimiser.updates, or raise the weight of the CLIP "
            "reward"
        )

    def fell(self, name: str) -> bool:
        """Whether a mean score is below the first validation's by more than the margin, or unknown."""
        change = self.changes[name][0]
        return change is None or change < -self._margin(name)

    def _margin(self, name: str) -> float:
        """Return the fall of a score that is accepted."""
        scores = [score for score in self.scores[name] if score is not None]
        return MARGIN * pstdev(scores) if scores else 0.0

    def _clearly_below(self, best: Validation, name: str) -> bool:
        """Whether a score fell since another validation by more than the margin, beyond chance."""
        return _paired_change(self, best, name).high < -best._margin(name)


def _paired_change(now: Validation, before: Validation, name: str) -> Estimate:
    """Return the mean change of a score since another validation, paired by prompt, with a 95 % interval."""
    pairs = zip(now.scores[name], before.scores[name], strict=True)
    (change,) = mean_intervals([[a - b for a, b in pairs if a is not None and b is not None]])
    return change


class Validator:
    """Generates images of fixed prompts and noises with the trained weights, and scores them.

    Args:
        trainable: What is trained.
        mix: The trained rewards.
        selection_reward: The reward that selects the checkpoint; None: there is none.
        denoiser: The UNet with guidance.
        latent_shape: (channels, height, width) of one latent.
        prompts: P prompts.
        steps: Number of sampling steps.
        tuned_steps: Number of last steps that use the tuned encoder.
        memory: Micro-batch, images decoded at a time, and precision.
        unet_trained: Whether the UNet is trained, so that steps before the tuned ones change too.
    """

    def __init__(
        self,
        trainable: Trainable,
        mix: RewardMix,
        selection_reward: Reward | None,
        denoiser: Denoiser,
        latent_shape: tuple[int, int, int],
        prompts: Sequence[str],
        *,
        steps: int,
        tuned_steps: int,
        memory: MemorySettings,
        unet_trained: bool = False,
    ) -> None:
        self.trainable, self.mix, self.selection_reward = trainable, mix, selection_reward
        self.denoiser, self.latent_shape, self.prompts = denoiser, latent_shape, list(prompts)
        self.steps, self.tuned_steps, self.unet_trained = steps, tuned_steps, unet_trained
        self.memory = memory
        self.prompts_at_once = max(1, min(BATCH, memory.micro_batch or BATCH) // NOISES)
        # latents before the tuned steps, sampled once: they do not depend on what is trained
        self._prefixes: list[tuple[Rollout, Tensor]] | None = None

    @classmethod
    def of_run(
        cls,
        config: TrainConfig,
        source: PromptSource,
        trainable: Trainable,
        mix: RewardMix,
        denoiser: Denoiser,
        latent_shape: tuple[int, int, int],
    ) -> Validator:
        """Make the validator of a training run, and load its selection reward.

        Args:
            config: The run's configuration.
            source: Validation prompts, of which the first are used.
            trainable: What is trained.
            mix: The trained rewards.
            denoiser: The UNet with guidance.
            latent_shape: (channels, height, width) of one latent.
        """
        selection, count = config.validation.selection_reward, config.validation.prompt_count
        return cls(
            trainable,
            mix,
            load(selection, device=str(mix.panel.device)) if selection else None,
            denoiser,
            latent_shape,
            [source.texts[number] for number in range(min(count, len(source)))],
            steps=config.schedule.steps,
            tuned_steps=config.eval_tuned_steps,
            memory=config.memory,
            unet_trained="unet" in config.trainable.parts,
        )

    @torch.no_grad()
    def validate(self, update: int, first: Validation | None = None) -> tuple[Validation, Tensor]:
        """Validate after ``update`` updates.

        Args:
            update: Updates so far.
            first: The run's first validation, for the changes; None: this is it.

        Returns:
            The validation, and its images (2 P, 3, H, W) in [0, 1], a prompt's images in a row.

        Raises:
            ConfigError: If the selection reward cannot judge any of the first images, or scores all alike.
        """
        with autocast(self.trainable.original.device, self.memory.precision), self.denoiser.uncounted():
            images = torch.cat(list(self._sample())).nan_to_num(0.5)
        by_reward, embeddings = self._score(images)
        if first is None:
            self._check_selection(by_reward)
        scores = {
            name: [_finite(value) for value in values.view(-1, NOISES).mean(dim=1).tolist()]
            for name, values in by_reward.items()
        }
        tuned = self.trainable.encode(self.prompts)
        drift = float(tuned.drift(self.trainable.encode_original(self.prompts)))
        validation = Validation(update, scores, _diversity(embeddings), drift)
        changes = {}
        for name in scores:
            change = _paired_change(validation, first or validation, name)
            changes[name] = [_finite(number) for number in (change.value, change.low, change.high)]
        return replace(validation, changes=changes), images

    def _check_selection(self, by_reward: Mapping[str, Tensor]) -> None:
        if self.selection_reward is None:
            return
        name = self.selection_reward.info.name
        scores = by_reward[name][by_reward[name].isfinite()]
        if len(scores) > 1 and bool((scores != scores[0]).any()):
            return
        count = len(by_reward[name])
        problem = (
            f"the same score, {float(scores[0]):.4g}, for all {count}"
            if len(scores)
            else f"no finite score for any of the {count}"
        )
        raise ConfigError(
            f"validation.selection_reward {name} has {problem} images of the validation prompts, such as "
            f"{self.prompts[0]!r}, and cannot select a checkpoint; choose another reward or other prompts"
        )

    def _score(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """Return scores (2 P,) by reward, and the selection reward's embeddings."""
        texts = [prompt for prompt in self.prompts for _ in range(NOISES)]
        scores: dict[str, list[Tensor]] = {}
        embeddings = []
        for start in range(0, len(images), BATCH):
            part, part_texts = images[start : start + BATCH], texts[start : start + BATCH]
            mixed = self.mix.score(part, part_texts)
            row = {**mixed.scores, TRAINED: mixed.total}
            if self.selection_reward is not None:
                row[self.selection_reward.info.name] = self.selection_reward.score(part, part_texts)
                embeddings.append(self.selection_reward.image_embeddings(part))
            for name, values in row.items():
                scores.setdefault(name, []).append(values)
        return {name: torch.cat(values) for name, values in scores.items()}, embeddings

    def _sample(self) -> Iterator[Tensor]:
        """Yield images (B, 3, H, W) of the prompts in order."""
        vae = self.trainable.original.vae
        if self._prefixes is None or self.unet_trained:
            self._prefixes = list(self._sample_prefixes())
        size = self.prompts_at_once
        for index, (last, z) in enumerate(self._prefixes):
            texts = self.prompts[index * size : (index + 1) * size]
            c = self.trainable.encode([text for text in texts for _ in range(NOISES)])
            # a copy: multistep samplers change while they run, and the prefix is used again
            last = replace(last, scheduler=copy.deepcopy(last.scheduler))
            yield decode_latents(vae, last.run(z, c), self.memory.decode_slice)

    def _sample_prefixes(self) -> Iterator[tuple[Rollout, Tensor]]:
        """Yield the tuned steps and the latents (B, C, h, w) before them."""
        pipe, size = self.trainable.original, self.prompts_at_once
        for start in range(0, len(self.prompts), size):
            numbers = range(start, min(start + size, len(self.prompts)))
            texts = [self.prompts[number] for number in numbers for _ in range(NOISES)]
            seeds = [noise_seed(VALIDATION_SEED, number, k) for number in numbers for k in range(NOISES)]
            whole, z = Rollout.from_noise(self.denoiser, pipe, self.steps, seeds, self.latent_shape)
            first, last = whole.split(-self.tuned_steps)
            yield last, first.run(z, self.trainable.encode_original(texts))


class Validations:
    """All validations of a run: made when they are due, logged, and used to choose its checkpoint.

    Args:
        validator: Makes them; None without validation, and in all processes but the first.
        config: The run's configuration.
        folder: Folder of the run. It may hold earlier validations, of which the last is not after the newest
            checkpoint.
        processes: The processes of the run.
        progress: Receives a summary of each validation.
    """

    def __init__(
        self,
        validator: Validator | None,
        config: TrainConfig,
        folder: TrainFolder,
        processes: Processes,
        progress: Progress,
    ) -> None:
        self._validator, self._folder = validator, folder
        self._processes, self._progress = processes, progress
        self._every, self._updates = config.validation.every, config.optimiser.updates
        selection = config.validation.selection_reward
        self._selection = info(selection).name if selection else ""
        rows = folder.rows(VALIDATION) if processes.main else []
        self._all = [Validation.from_row(row) for row in rows]

    def due(self, done: int) -> bool:
        """Return whether the run is validated after ``done`` updates."""
        return done == self._updates or bool(self._every and done % self._every == 0)

    def run(self, done: int) -> str:
        """Validate after ``done`` updates, unless that is not due or was done before, and log it.

        Returns:
            The over-optimisation alarm of the last validation, in every process; "" if there is none.
        """
        new = self._validator is not None and self.due(done) and all(one.update != done for one in self._all)
        if self._validator is not None and new:
            result, images = self._validator.validate(done, self._all[0] if self._all else None)
            self._all.append(result)
            self._folder.append(VALIDATION, [result.to_row()])
            _save_images(images, self._folder.path / "samples" / f"{done:06d}.png")
            save_curves(self._folder)
        # from the log rather than from this start, so that it outlives an interruption
        alarm = ""
        if self._all and self._selection:
            alarm = self._all[-1].over_optimisation_alarm(self._all[:-1], self._selection)
        if new:
            for note in filter(None, (self._all[-1].summary(), alarm)):
                self._progress.note(note)
        in_any_process = self._processes.any(bool(alarm))  # only the first one validates
        return alarm or ("alarm" if in_any_process else "")

    def best(self, done: int) -> int:
        """Return the update of the checkpoint to use: selected by validation, otherwise the newest."""
        tuned = [validation for validation in self._all if validation.update > 0]
        return Validation.select(tuned, self._selection).update if self._selection and tuned else done


def _save_images(images: Tensor, path: Path, columns: int = 8, limit: int = 32) -> None:
    """Write the first ``limit`` images (N, 3, H, W) in [0, 1] as one PNG."""
    from PIL import Image

    pixels = to_bytes(images[:limit])
    height, width = pixels.shape[1:3]
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pixels) / columns) * height))
    for index, image in enumerate(pixels):
        sheet.paste(Image.fromarray(image), (index % columns * width, index // columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _finite(value: float) -> float | None:
    """Return the value, or None for NaN and infinities, which JSON does not have."""
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _diversity(embeddings: Sequence[Tensor | None]) -> float | None:
    parts = [part for part in embeddings if part is not None]
    if not parts:
        return None
    pairs = nn.functional.normalize(torch.cat(parts).float(), dim=1).view(-1, NOISES, parts[0].shape[1])
    return float(1 - (pairs[:, 0] * pairs[:, 1]).sum(dim=1).mean())
