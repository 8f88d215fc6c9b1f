"""Drawing the images of a run: stored batches, paired noise, lossless files, one record a sample."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from leaderboards.records import Key, RunFolder, Sample
from tcbench.files import write_atomically
from tcbench.progress import Progress
from textcraftor.diffusion.prompts import initial_latents, noise_seed

if TYPE_CHECKING:
    import numpy as np

    from textcraftor.diffusion.runner import Drawing

Item = TypeVar("Item")


@dataclass(frozen=True)
class Artist:
    """A pipeline that draws samples; with a ``judge`` the best of several tries at each (best-of-N)."""

    drawing: Drawing
    tries: int = 1
    judge: Callable[[np.ndarray, Sequence[str]], np.ndarray] | None = None
    """Images (B, H, W, 3) in [0, 1], as they will be stored, and prompts to what they are worth (B,)."""

    def draw(self, batch: Sequence[Sample]) -> np.ndarray:
        """Images (B, H, W, 3), float32. The first try begins with the sample's own noise, as others' do."""
        import numpy as np

        found = self._try(batch, 0)
        if self.judge is None:
            return found
        worth = self._worth(found, batch)
        for number in range(1, self.tries):
            images = self._try(batch, number)
            value = self._worth(images, batch)
            better = value > worth
            worth = np.where(better, value, worth)
            found = np.where(better[:, None, None, None], images, found)
        return found

    def _worth(self, images: np.ndarray, batch: Sequence[Sample]) -> np.ndarray:
        """What images are worth (B,); broken ones, and those that the judge has no number for, nothing."""
        import numpy as np

        assert self.judge is not None
        value = self.judge(_stored(np.nan_to_num(images, nan=0.5)), [sample.prompt for sample in batch])
        good = np.isfinite(value) & np.isfinite(images).all(axis=(1, 2, 3))
        return np.where(good, value, -np.inf)

    def _try(self, batch: Sequence[Sample], number: int) -> np.ndarray:
        seeds = [noise_seed(s.noise_seed, *s.key, number) if number else s.noise_seed for s in batch]
        latents = initial_latents(seeds, self.drawing.latent_shape)
        return self.drawing.draw([sample.text for sample in batch], latents, seeds)


def plan_batches(run: RunFolder, batch_size: int) -> list[list[Key]]:
    """The run's stored batch plan, after giving every planned sample that has no batch yet a new one.

    Batches that were begun stay as they were whatever `batch_size` is now: within the same batches results
    are bit-equal on the CPU. Larger ones that were not begun are split anew: they may be what did not fit.
    """
    planned, begun = run.header.planned, set(run.samples())
    keys = [(prompt, sample) for sample in range(planned.seeds) for prompt in planned.prompt_ids]
    kept = [batch for batch in run.batches() if len(batch) <= batch_size or not begun.isdisjoint(batch)]
    placed = {key for batch in kept for key in batch}
    run.append_batches(split([key for key in keys if key not in placed], batch_size))
    return [batch for batch in run.batches() if any(key in planned for key in batch)]


def split(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """`items` in consecutive pieces of `size`, the last one may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def missing_images(run: RunFolder) -> set[Key]:
    """Planned samples without an image on disk."""
    planned = run.header.planned
    samples = run.samples()
    have = {
        key
        for key, sample in samples.items()
        if sample.image is not None and run.image_path(sample).is_file()
    }
    return {(p, s) for p in planned.prompt_ids for s in range(planned.seeds)} - have


def generate(
    run: RunFolder,
    describe: Callable[[Key], Sample],
    load_artist: Callable[[], Artist],
    batch_size: int,
    progress: Progress,
) -> int:
    """Draw every planned image that is missing; returns how many were. The pipeline is loaded only if one is.

    `describe` gives a sample's record but for its outcome. A batch with a missing image is drawn whole, and
    only what is missing is written. A batch that does not fit in memory is halved; a single image that does
    not fit, or is not finite, is recorded as missing with its reason and tried again at the next start.
    """
    batches = plan_batches(run, batch_size)
    missing = missing_images(run)
    _relabel(run, describe)
    progress.stage("images", run.header.planned.count, run.header.planned.count - len(missing))
    if not missing:
        return 0
    artist = load_artist()
    drawn = 0
    queue = [batch for batch in batches if missing & set(batch)]
    with run.sample_appender() as appender:
        while queue:
            batch = [describe(key) for key in queue.pop(0)]
            images = _draw_or_none(artist, batch)
            if images is None and len(batch) > 1:
                progress.note(f"a batch of {len(batch)} does not fit in memory: going on with halves")
                halves = [[s.key for s in half] for half in split(batch, (len(batch) + 1) // 2)]
                run.append_batches(halves)
                queue[:0] = [half for half in halves if missing & set(half)]
                continue
            done = [
                _store(run, sample, image) for sample, image in _pairs(batch, images) if sample.key in missing
            ]
            cut = artist.drawing.truncated([sample.text for sample in done])
            done = [replace(sample, truncated=flag) for sample, flag in zip(done, cut, strict=True)]
            appender.append(done)
            drawn += sum(sample.image is not None for sample in done)
            progress.advance(len(done))
    return drawn


def _relabel(run: RunFolder, describe: Callable[[Key], Sample]) -> None:
    """Record anew the planned images whose category or groups the prompt file now gives otherwise."""
    made = [s for key, s in run.samples().items() if s.image is not None and key in run.header.planned]
    changed = []
    for old in made:
        new = describe(old.key)
        if (old.category, list(old.groups)) != (new.category, list(new.groups)):
            changed.append(replace(old, category=new.category, groups=new.groups))
    if changed:
        with run.sample_appender() as appender:
            appender.append(changed)


def _draw_or_none(artist: Artist, batch: Sequence[Sample]) -> np.ndarray | None:
    """Images of the batch, float32 (B, H, W, 3), or None if they do not fit in the device's memory."""
    import torch

    try:
        return artist.draw(batch)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def _pairs(batch: Sequence[Sample], images: np.ndarray | None) -> Iterable[tuple[Sample, np.ndarray | None]]:
    return zip(batch, images if images is not None else [None] * len(batch), strict=True)


def _store(run: RunFolder, sample: Sample, image: np.ndarray | None) -> Sample:
    """Write the image and return the sample's complete record."""
    import numpy as np

    if image is None:
        return replace(sample, reason="out of memory for a single image; use a smaller size or dtype")
    if not np.isfinite(image).all():
        return replace(sample, reason="the pipeline gave pixels that are not finite")
    content = encode_png(image)
    name = f"images/{sample.prompt_id:05d}-{sample.sample}.png"
    write_atomically(run.path / name, content)
    return replace(sample, image=name, sha256=hashlib.sha256(content).hexdigest())


def _stored(images: np.ndarray) -> np.ndarray:
    """In the levels of 8 bits."""
    return (images * 255).round() / 255


def encode_png(image: np.ndarray) -> bytes:
    """`image` (H, W, 3) in [0, 1], rounded to 8 bits, as PNG bytes."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((_stored(image) * 255).round().astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
