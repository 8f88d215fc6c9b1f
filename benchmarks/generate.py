"""Generate the images of a run: stored batches, paired noise, lossless files, one record per sample."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from leaderboards.records import Key, Sample
from leaderboards.run_state import RunState
from tcbench.files import write_atomically
from tcbench.progress import Progress
from textcraftor.diffusion.prompts import initial_latents, noise_seed

if TYPE_CHECKING:
    import numpy as np

    from textcraftor.ascent import RewardAscent
    from textcraftor.diffusion.runner import PipelineRunner


class _ImageSource(Protocol):
    """What the images of a run come from."""

    def sample(self, batch: Sequence[Sample]) -> np.ndarray:
        """Return images (B, H, W, 3), float32, in [0, 1]."""

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Return which texts are longer than the limit of a text encoder, and are cut."""


@dataclass(frozen=True)
class Sampler:
    """Generates the images of samples, with best-of-N or an optimisation at test time."""

    runner: PipelineRunner
    best_of: int = 1
    """Number of images generated for each sample."""
    test_time_reward: Callable[[np.ndarray, Sequence[str]], np.ndarray] | None = None
    """Picks the best image: maps images (B, H, W, 3) in [0, 1], rounded to 8 bits like stored ones, and
    prompts to scores (B,).
    """
    ascent: RewardAscent | None = None
    """Optimises noise or embeddings at test time."""

    def sample(self, batch: Sequence[Sample]) -> np.ndarray:
        """Return images (B, H, W, 3), float32, in [0, 1]."""
        import numpy as np

        if self.ascent is not None:
            return self._optimised(self.ascent, batch)
        best = self._attempt(batch, 0)
        if self.test_time_reward is None:
            return best
        best_scores = self._scores(best, batch)
        for attempt in range(1, self.best_of):
            images = self._attempt(batch, attempt)
            scores = self._scores(images, batch)
            better = scores > best_scores
            best_scores = np.where(better, scores, best_scores)
            best = np.where(better[:, None, None, None], images, best)
        return best

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Return which texts are longer than the tokenizer's limit."""
        return self.runner.truncated(texts)

    def _optimised(self, ascent: RewardAscent, batch: Sequence[Sample]) -> np.ndarray:
        texts, seeds = [sample.text for sample in batch], [sample.noise_seed for sample in batch]
        noise = initial_latents(seeds, self.runner.latent_shape)
        best, conditionings = ascent.optimise(texts, [sample.prompt for sample in batch], noise)
        return self.runner.generate(texts, best, seeds, conditionings)

    def _scores(self, images: np.ndarray, batch: Sequence[Sample]) -> np.ndarray:
        """Scores (B,); -inf for images with pixels that are not finite and for those without a score."""
        import numpy as np

        assert self.test_time_reward is not None
        # the reward must see valid pixels even where an image is broken: one image must not fail the batch
        valid = _round_to_8_bits(np.nan_to_num(images, nan=0.5))
        scores = self.test_time_reward(valid, [sample.prompt for sample in batch])
        usable = np.isfinite(scores) & np.isfinite(images).all(axis=(1, 2, 3))
        return np.where(usable, scores, -np.inf)

    def _attempt(self, batch: Sequence[Sample], attempt: int) -> np.ndarray:
        # Attempt 0 starts from the sample's own noise, which all systems share: runs stay paired by prompt.
        seeds = [noise_seed(s.noise_seed, *s.key, attempt) if attempt else s.noise_seed for s in batch]
        latents = initial_latents(seeds, self.runner.latent_shape)
        return self.runner.generate([sample.text for sample in batch], latents, seeds)


def generate_images(
    run: RunState,
    describe: Callable[[Key], Sample],
    load_sampler: Callable[[], _ImageSource],
    batch_size: int,
    progress: Progress,
) -> int:
    """Generate every planned image that is missing.

    A batch with a missing image is generated whole, so that results do not depend on where a run was
    interrupted, and only what is missing is written. A batch that does not fit in memory is halved. A single
    image that does not fit, or is not finite, is recorded as missing with its reason; the next start tries it
    again.

    Args:
        run: The run folder, held by this process.
        describe: Returns the record of a sample before its image exists.
        load_sampler: Loads the pipeline; called only if an image is missing.
        batch_size: Size of new batches.
        progress: Receives progress.

    Returns:
        The number of new images.
    """
    batches = run.plan_batches(batch_size)
    missing = run.missing_images()
    _update_labels(run, describe)
    progress.stage("images", run.plan.count, run.plan.count - len(missing))
    if not missing:
        return 0
    sampler = load_sampler()
    count = 0
    queue = [batch for batch in batches if not missing.isdisjoint(batch)]
    while queue:
        batch = [describe(key) for key in queue.pop(0)]
        images = _sample_or_none(sampler, batch)
        if images is None and len(batch) > 1:
            progress.note(f"a batch of {len(batch)} does not fit in memory: continuing with halves")
            keys, middle = [s.key for s in batch], (len(batch) + 1) // 2
            halves = [keys[:middle], keys[middle:]]
            run.append_batches(halves)
            queue[:0] = [half for half in halves if not missing.isdisjoint(half)]
            continue
        stored = [
            _store(run, sample, image) for sample, image in _pairs(batch, images) if sample.key in missing
        ]
        truncated = sampler.truncated([sample.text for sample in stored])
        stored = [replace(sample, truncated=flag) for sample, flag in zip(stored, truncated, strict=True)]
        # one record per batch, after its files: a crash in between costs this batch only
        run.append_samples(stored)
        count += sum(sample.image is not None for sample in stored)
        progress.advance(len(stored))
    return count


def _update_labels(run: RunState, describe: Callable[[Key], Sample]) -> None:
    """Record images again whose category or groups changed in the prompt file."""
    changed = []
    for key, old in run.samples.items():
        if old.image is None or key not in run.plan:
            continue
        new = describe(key)
        if (old.category, list(old.groups)) != (new.category, list(new.groups)):
            changed.append(replace(old, category=new.category, groups=new.groups))
    if changed:
        run.append_samples(changed)


def _sample_or_none(sampler: _ImageSource, batch: Sequence[Sample]) -> np.ndarray | None:
    """Images of the batch, or None if they do not fit in the device's memory."""
    import torch

    try:
        return sampler.sample(batch)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def _pairs(batch: Sequence[Sample], images: np.ndarray | None) -> Iterable[tuple[Sample, np.ndarray | None]]:
    return zip(batch, images if images is not None else [None] * len(batch), strict=True)


def _store(run: RunState, sample: Sample, image: np.ndarray | None) -> Sample:
    """Write the image and return the sample's complete record."""
    import numpy as np

    if image is None:
        return replace(sample, reason="out of memory for a single image; use a smaller size or dtype")
    if not np.isfinite(image).all():
        return replace(sample, reason="the pipeline returned pixels that are not finite")
    content = _encode_png(image)
    name = f"images/{sample.prompt_id:05d}-{sample.sample}.png"
    write_atomically(run.path / name, content)
    return replace(sample, image=name, sha256=hashlib.sha256(content).hexdigest())


def _round_to_8_bits(images: np.ndarray) -> np.ndarray:
    return (images * 255).round() / 255


def _encode_png(image: np.ndarray) -> bytes:
    """Return ``image`` (H, W, 3) in [0, 1] as the bytes of an 8-bit PNG file."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((_round_to_8_bits(image) * 255).round().astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
