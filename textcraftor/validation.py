"""Watching a training run from outside: fixed prompts and noises, drawn as they will be drawn afterwards."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leaderboards.stats import Estimate, mean_interval
from rewards.backbones.towers import tower_embeddings
from rewards.base import Reward
from rewards.combine.mix import RewardMix
from textcraftor.algorithms.goal import decode
from textcraftor.algorithms.objective import drifted
from textcraftor.config import TrainConfig
from textcraftor.diffusion.prompts import initial_latents, noise_seed
from textcraftor.diffusion.sampling import Denoiser, Rollout, fresh
from textcraftor.sources import PromptSource
from textcraftor.tuned import Trainee

NOISES = 2
"""Images of each prompt: the least that has a diversity."""

BATCH = 8
"""Images drawn and scored at a time."""

VALIDATION_SEED = 7
"""Of the noises: no training run's."""

TRAINED = "trained"
"""The mix of trained rewards, among the scores of a validation."""


@dataclass(frozen=True)
class Validation:
    """One validation. ``scores`` are means over a prompt's images, by reward, and of the trained mix."""

    update: int
    scores: Mapping[str, Sequence[float | None]]
    diversity: float | None
    """1 - mean cosine of the selection reward's embeddings of one prompt's images; None: it has none."""
    drift: float
    changes: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Mean change against the first validation, paired by prompt, and the ends of its 95 % interval."""

    @property
    def means(self) -> dict[str, float | None]:
        """Of the prompts that a reward could judge; None if there is none."""
        return {name: _mean([v for v in values if v is not None]) for name, values in self.scores.items()}

    def rank(self, name: str) -> float:
        """The mean, to choose by; of what could not be judged, the least."""
        mean = self.means[name]
        return -math.inf if mean is None else mean

    def summary(self) -> str:
        """In a line: means of the first one, changes since it of a later one, diversity and drift."""
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

    def record(self) -> dict[str, Any]:
        """As a line of the log."""
        return asdict(self) | {"means": self.means}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Validation:
        """From a line of the log."""
        return cls(**{name: value for name, value in row.items() if name != "means"})


def change(now: Validation, then: Validation, name: str) -> Estimate:
    """Mean paired change of a score since another validation, with its 95 % interval."""
    pairs = zip(now.scores[name], then.scores[name], strict=True)
    return mean_interval([a - b for a, b in pairs if a is not None and b is not None])


def alarm(now: Validation, earlier: Sequence[Validation], selection: str) -> str:
    """What is wrong, in a line, if the selection reward fell significantly below its best while the trained
    rewards rose; "" if nothing is.
    """
    if not earlier:
        return ""
    best = max(earlier, key=lambda found: found.rank(selection))
    fell, rose = change(now, best, selection), change(now, best, TRAINED)
    if not fell.high < 0 or not rose.value > 0:  # NaN is neither
        return ""
    return (
        f"over-optimisation: since update {best.update} the selection reward {selection} fell by "
        f"{-fell.value:.3g} (95 %: {-fell.high:.3g} to {-fell.low:.3g}) while the trained ones rose by "
        f"{rose.value:.3g}; a lower lr, fewer updates or more weight on the CLIP constraint mend it"
    )


def chosen(tuned: Sequence[Validation], selection: str) -> Validation:
    """The checkpoint to use: the latest that is not significantly below the best by the selection reward.

    What chance can tell apart decides; what it cannot leaves the one that has learnt longest.
    """
    best = max(tuned, key=lambda found: found.rank(selection))
    return [found for found in tuned if not change(found, best, selection).high < 0][-1]


class Validator:
    """The images of fixed prompts and noises under the tuned encoder, and what rewards say of them.

    Steps before the tuned ones are run once and kept, unless the UNet itself is trained.
    """

    def __init__(
        self,
        tuned: Trainee,
        config: TrainConfig,
        mix: RewardMix,
        selection: Reward | None,
        denoiser: Denoiser,
        latent_shape: tuple[int, int, int],
        source: PromptSource,
    ) -> None:
        self.tuned, self.config, self.mix, self.selection = tuned, config, mix, selection
        self.denoiser, self.latent_shape = denoiser, latent_shape
        count = min(config.validation_prompts, len(source))
        self.prompts = [source.texts[number] for number in range(count)]
        self._kept: list[tuple[Any, Tensor]] | None = None
        self.prompts_at_once = max(1, min(BATCH, config.micro_batch or BATCH) // NOISES)

    @torch.no_grad()
    def measure(self, update: int, earlier: Sequence[Validation]) -> tuple[Validation, Tensor]:
        """The validation after ``update`` updates, and its images (N, 3, H, W), a prompt's together."""
        kind = self.tuned.original.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            images = torch.cat(list(self._draw())).nan_to_num(0.5)
        texts = [prompt for prompt in self.prompts for _ in range(NOISES)]
        scores: dict[str, list[Tensor]] = {}
        embeddings = []
        for start in range(0, len(images), BATCH):
            part, said = images[start : start + BATCH], texts[start : start + BATCH]
            mixed = self.mix.score(part, said)
            found = {**mixed.scores, TRAINED: mixed.total}
            if self.selection is not None:
                found[self.selection.info.name] = self.selection.score(part, said)
                embeddings.append(tower_embeddings(self.selection, part))
            for name, values in found.items():
                scores.setdefault(name, []).append(values)
        by_prompt = {
            name: [_known(value) for value in torch.cat(values).view(-1, NOISES).mean(dim=1).tolist()]
            for name, values in scores.items()
        }
        now = Validation(update, by_prompt, _diversity(embeddings), self._drift())
        first = earlier[0] if earlier else now
        estimates = {name: change(now, first, name) for name in by_prompt}
        changes = {
            name: [_known(number) for number in (found.value, found.low, found.high)]
            for name, found in estimates.items()
        }
        return Validation(update, by_prompt, now.diversity, now.drift, changes), images

    def _draw(self) -> Iterator[Tensor]:
        pipe = self.tuned.original
        if self._kept is None or "unet" in self.config.trains:
            self._kept = list(self._begin())
        size = self.prompts_at_once
        for place, (scheduler, z) in enumerate(self._kept):
            texts = self.prompts[place * size : (place + 1) * size]
            c = self.tuned.encode([text for text in texts for _ in range(NOISES)])
            running = copy.deepcopy(scheduler)
            last = running.timesteps[-self.config.drawn_tuned_steps :]
            clean = Rollout(self.denoiser, running, last).run(z, c)
            yield from (
                decode(pipe.vae, part) for part in torch.split(clean, self.config.decode_slice or len(clean))
            )

    def _begin(self) -> Iterator[tuple[Any, Tensor]]:
        """Batches of latents before the tuned steps, with their schedulers."""
        pipe, size = self.tuned.original, self.prompts_at_once
        for start in range(0, len(self.prompts), size):
            numbers = range(start, min(start + size, len(self.prompts)))
            texts = [self.prompts[number] for number in numbers for _ in range(NOISES)]
            seeds = [noise_seed(VALIDATION_SEED, number, k) for number in numbers for k in range(NOISES)]
            scheduler = fresh(pipe.scheduler, self.config.steps, device=pipe.device)
            z = initial_latents(seeds, self.latent_shape).to(pipe.device) * scheduler.init_noise_sigma
            first = scheduler.timesteps[: -self.config.drawn_tuned_steps]
            c = self.tuned.encode_original(texts)
            yield scheduler, Rollout(self.denoiser, scheduler, first).run(z, c)

    def _drift(self) -> float:
        return float(drifted(self.tuned.encode(self.prompts), self.tuned.encode_original(self.prompts)))


def _known(value: float) -> float | None:
    """The value, or None where it is no number, as JSON has it."""
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _diversity(embeddings: Sequence[Tensor | None]) -> float | None:
    known = [part for part in embeddings if part is not None]
    if not known:
        return None
    pairs = nn.functional.normalize(torch.cat(known).float(), dim=1).view(-1, NOISES, known[0].shape[1])
    return float(1 - (pairs[:, 0] * pairs[:, 1]).sum(dim=1).mean())


def save_grid(images: Tensor, path: Path, columns: int = 8, limit: int = 32) -> None:
    """The first images (N, 3, H, W) as one PNG."""
    from PIL import Image

    shown = (images[:limit].float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    height, width = shown.shape[1:3]
    sheet = Image.new("RGB", (columns * width, math.ceil(len(shown) / columns) * height))
    for place, image in enumerate(shown):
        sheet.paste(Image.fromarray(image), (place % columns * width, place // columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
