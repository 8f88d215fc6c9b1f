"""Mean and standard deviation of rewards that a calibration lacks, such as the user's own, measured before
training.

The images are those of the untuned model for the first training samples. The statistics are kept in
train.json, and a resumed run uses the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from rewards.combine.calibration import RewardStatistics
from rewards.combine.panel import Panel
from tcbench.errors import ConfigError
from tcbench.progress import Progress
from textcraftor.algorithms.latent_scores import LatentScorer, decode_latents
from textcraftor.config import TrainConfig
from textcraftor.diffusion.sampling import Denoiser, Rollout, autocast
from textcraftor.sources import PromptSource, Sample, SampleOrder
from textcraftor.tuned import Trainable

_IMAGES = 100
"""Images that a reward is measured on. 100 images determine the standard deviation to about 7 %."""
_BATCH = 8
"""Images that are sampled and scored at a time."""


@dataclass(frozen=True)
class MissingCalibration:
    """Measures the rewards of a mix that its calibration lacks; the ``measure`` of `load_mix`."""

    config: TrainConfig
    trainable: Trainable
    denoiser: Denoiser
    latent_shape: tuple[int, int, int]
    """(channels, height, width) of one latent."""
    source: PromptSource
    """Training prompts."""
    known: Mapping[str, Any]
    """Content of train.json of a run that is resumed; empty for a new one."""
    main: bool
    """Whether this is the first process, which measures."""
    progress: Progress
    dry_run: bool = False
    """Whether to measure nothing and return placeholders, which no update must use."""
    placeholders: list[str] = field(default_factory=list, init=False)
    """Rewards that have placeholders in place of statistics."""

    def __call__(self, panel: Panel, names: Sequence[str]) -> dict[str, RewardStatistics]:
        """Return the statistics of the named rewards of the panel: recorded ones, or measured now.

        Raises:
            ConfigError: If a reward gives all images the same score, or half of them none.
        """
        recorded = {name: self._recorded(panel, name) for name in names}
        missing = [name for name in names if recorded[name] is None]
        measured: dict[str, RewardStatistics] = {}
        if missing and self.dry_run:
            self.progress.note(self._note(missing, f"would be measured on {_IMAGES} images"))
            self.placeholders.extend(missing)
            measured = {name: RewardStatistics(0.0, 1.0, _IMAGES, panel[name].score_id) for name in missing}
        elif missing:
            # Measured once: processes on different devices would get different last digits.
            (measured,) = broadcast_object_list([self._measure(panel, missing) if self.main else None])
        return {name: recorded[name] or measured[name] for name in names}

    def _note(self, names: Sequence[str], measuring: str) -> str:
        return (
            f"the calibration {self.config.rewards.calibration!r} has no {', '.join(names)}: {measuring} of "
            "training prompts by the untuned model"
        )

    def _recorded(self, panel: Panel, name: str) -> RewardStatistics | None:
        """Return the statistics with which the run began; None if there are none of this version."""
        score_id = panel[name].score_id
        row = self.known.get("calibration", {}).get(name)
        if row is None or self.known["rewards"].get(name) != score_id:
            return None
        return RewardStatistics(row["mean"], row["std"], _IMAGES, score_id)

    def _measure(self, panel: Panel, names: Sequence[str]) -> dict[str, RewardStatistics]:
        self.progress.note(self._note(names, f"measuring on {_IMAGES} images"))
        order = SampleOrder(self.source, self.config.seed)
        scores: dict[str, list[float]] = {name: [] for name in names}
        size = min(_BATCH, self.config.memory.micro_batch or _BATCH)
        for start in range(0, _IMAGES, size):
            samples = [order[number] for number in range(start, min(start + size, _IMAGES))]
            texts = [sample.text for sample in samples]
            with torch.no_grad():
                by_reward = panel.score(self._images(samples), texts)
            for name in names:
                scores[name] += by_reward[name][by_reward[name].isfinite()].tolist()
        statistics = {name: _statistics(panel, name, scores[name]) for name in names}
        for name, row in statistics.items():
            self.progress.note(f"{name}: mean {row.mean:.4g}, deviation {row.std:.4g}; kept in train.json")
        return statistics

    def _images(self, samples: Sequence[Sample]) -> Tensor:
        """Return the images (B, 3, H, W) that rewards see of the untuned model's samples."""
        pipe, steps = self.trainable.original, self.config.schedule.steps
        seeds, memory = [sample.noise_seed for sample in samples], self.config.memory
        whole, noise = Rollout.from_noise(self.denoiser, pipe, steps, seeds, self.latent_shape)
        with autocast(pipe.device, memory.precision), self.denoiser.uncounted():
            c = self.trainable.encode_original([sample.text for sample in samples])
            images = decode_latents(pipe.vae, whole.run(noise, c), memory.decode_slice)
        return LatentScorer.pooled(images, self.config.rewards.pool).nan_to_num(0.5)


def _statistics(panel: Panel, name: str, scores: Sequence[float]) -> RewardStatistics:
    if 2 * len(scores) < _IMAGES:
        raise ConfigError(
            f"{name} has a finite score for only {len(scores)} of {_IMAGES} images of training prompts; fix "
            "the reward, or choose prompts that it can judge"
        )
    std = stdev(scores)
    if not std:
        raise ConfigError(
            f"{name} gives the same score, {scores[0]:.6g}, to all {_IMAGES} images of the untuned model, so "
            "it has no scale and no gradient to follow; use another reward, or official scores "
            '(rewards.calibration = "")'
        )
    return RewardStatistics(fmean(scores), std, len(scores), panel[name].score_id)
