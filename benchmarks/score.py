"""Score the images of a run: in its stored batches, one record per image and reward."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.resolve import SCORE_DTYPE, ResolvedReward
from leaderboards.records import Key, Sample, Score, ScoreSet, Status
from leaderboards.run_state import RunState
from tcbench.errors import first_line
from tcbench.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from rewards.base import Reward
    from rewards.combine.panel import Panel

_CANNOT_JUDGE = "the reward cannot judge this prompt"

_ANIMATED = "only the first frame of animated images is scored"
_TRANSPARENT = "only the stored colours of transparent images are scored, without a background"

_MEMORY_SHARE = 0.25
"""Part of the free memory that the weight files of rewards loaded together may take. Files in half precision
double when they are loaded as float32, and images and activations need the rest."""


@dataclass(frozen=True)
class RewardSummary:
    """Summary of one reward's scores of a run: counts over the images that a start planned."""

    reward: str
    score_id: str
    mean: float | None
    scored: int
    abstained: int
    failed: Mapping[Key, str]
    """Why images have no score."""
    truncated: int
    """Images whose prompt is longer than the reward's text encoder reads."""

    @staticmethod
    def of(run: RunState, score_set: ScoreSet) -> RewardSummary:
        """Count and average one reward's scores over the planned images."""
        scores = {key: s for key, s in run.scores(score_set).items() if key in run.plan}
        values = [s.score for s in scores.values() if s.score is not None]
        return RewardSummary(
            reward=score_set.reward,
            score_id=score_set.score_id,
            mean=math.fsum(values) / len(values) if values else None,
            scored=len(values),
            abstained=sum(s.status == "abstained" for s in scores.values()),
            failed={key: s.reason or "unknown" for key, s in scores.items() if s.status == "failed"},
            truncated=sum(s.truncated for s in scores.values()),
        )


def score_images(run: RunState, rewards: Sequence[ResolvedReward], device: str, progress: Progress) -> int:
    """Score every planned image that has no score yet.

    Batches are those of generation, and a batch with a missing score is scored whole, so an interrupted run
    ends with the scores of an uninterrupted one. Images come from their files, never from memory, and their
    bytes must match the recorded hash. Rewards that fit in memory together are loaded together, and each
    image is decoded once for all of them.

    Args:
        run: The run folder, held by this process.
        rewards: Rewards to score with; they are loaded only if a score is missing.
        device: Where scores are computed, such as "cuda".
        progress: Receives progress, one step per score.

    Returns:
        The number of new scores, failures included.
    """
    missing = [len(_unscored(run, reward.score_set)) for reward in rewards]
    total = len(rewards) * len(_planned_images(run))
    progress.stage("scores", total, total - sum(missing))
    groups = _groups([reward for reward, number in zip(rewards, missing, strict=True) if number], device)
    count = 0
    unusual: dict[str, set[Path]] = {}
    while groups:
        group = groups.pop(0)
        import torch

        try:
            for new in _score_together(run, group, device, unusual):
                count += new
                progress.advance(new)
        except torch.OutOfMemoryError:
            if len(group) == 1:
                raise
            progress.note(f"{len(group)} rewards do not fit in memory together: continuing one by one")
            torch.cuda.empty_cache()
            groups[:0] = [[reward] for reward in group]
    for what, files in unusual.items():
        number = "1 image" if len(files) == 1 else f"{len(files)} images, such as"
        progress.note(f"{what}: {number} {min(files)}")
    return count


def _groups(rewards: Sequence[ResolvedReward], device: str) -> list[list[ResolvedReward]]:
    """Split rewards into groups whose weights fit in memory together; files that they share count once."""
    if not rewards:
        return []
    limit = _MEMORY_SHARE * _free_bytes(device)
    groups: list[list[ResolvedReward]] = [[]]
    sizes: dict[Path, float] = {}
    for reward in rewards:
        own = {path.resolve(): _bytes(path) for path in reward.files.values()}
        # two versions of one reward file have the same name, and a panel needs distinct names
        same_name = any(reward.info.name == other.info.name for other in groups[-1])
        if groups[-1] and (same_name or sum((sizes | own).values()) > limit):
            groups.append([])
            sizes = {}
        groups[-1].append(reward)
        sizes |= own
    return groups


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _free_bytes(device: str) -> int:
    """Free memory of the device; for "cpu" and "mps" that of the machine."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # Linux
        kilobytes = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="utf-8"), re.MULTILINE)
        if kilobytes:
            return int(kilobytes[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _planned_images(run: RunState) -> dict[Key, Sample]:
    return {k: s for k, s in run.samples.items() if k in run.plan and s.image is not None}


def _unscored(run: RunState, score_set: ScoreSet) -> set[Key]:
    scores = run.scores(score_set)
    return {key for key in _planned_images(run) if key not in scores or scores[key].status == "failed"}


def _score_together(
    run: RunState, group: Sequence[ResolvedReward], device: str, unusual: dict[str, set[Path]]
) -> Iterator[int]:
    """Score with rewards that are loaded together; yield the number of new scores of each batch and reward.

    Raises:
        torch.OutOfMemoryError: If several rewards do not fit in the device's memory together.
    """
    from rewards.combine.panel import Panel

    samples = _planned_images(run)
    missing = {reward.info.name: _unscored(run, reward.score_set) for reward in group}
    # whole_batches: embeddings kept from one batch must not change the bits of another one's scores, or a
    # resumed run would differ from an uninterrupted one
    panel = Panel(
        [reward.info for reward in group],
        device=device,
        dtype=SCORE_DTYPE,
        weights={reward.info.name: reward.files for reward in group},
        whole_batches=True,
    )
    for keys in run.batches:
        batch = [samples[key] for key in keys if key in samples]
        active = [r for r in group if not missing[r.info.name].isdisjoint(s.key for s in batch)]
        if not active:
            continue
        opened, failed = _open_batch(run, batch)
        for sample, image in opened:
            for what in _unusual(image):
                unusual.setdefault(what, set()).add(run.image_path(sample))
        scores = _score_batch(panel, [reward.info.name for reward in active], opened)
        for reward in active:
            name = reward.info.name
            new = [score for score in [*failed, *scores[name]] if score.key in missing[name]]
            run.append_scores(reward.score_set, new)
            yield len(new)


def _open_batch(run: RunState, batch: Sequence[Sample]) -> tuple[list[tuple[Sample, Image]], list[Score]]:
    """Decoded images, and failures of those that cannot be read."""
    opened: list[tuple[Sample, Image]] = []
    failed: list[Score] = []
    for sample in batch:
        try:
            opened.append((sample, run.open_image(sample)))
        except (OSError, ValueError) as error:
            failed.append(_failed(sample, error))
    return opened, failed


def _unusual(image: Image) -> Iterator[str]:
    """Yield what a reward does not see of an image: later frames, and transparency."""
    if getattr(image, "is_animated", False):
        yield _ANIMATED
    if image.has_transparency_data and any(image.convert("RGBA").getchannel("A").histogram()[:255]):
        yield _TRANSPARENT


def _score_batch(
    panel: Panel, names: Sequence[str], opened: Sequence[tuple[Sample, Image]]
) -> dict[str, list[Score]]:
    """Scores of one batch by reward. A reward that fails does not affect the others."""
    import torch

    values: dict[str, list[float]] = {}
    if opened:
        prompts = [sample.prompt for sample, _ in opened]
        # an image that no reward accepts fails before the pass; it is found one by one below
        with suppress(ValueError, OSError), panel.shared_pass([image for _, image in opened]) as score:
            for name in names:
                try:
                    values[name] = _shortest(score(name, prompts))
                except torch.OutOfMemoryError:
                    if len(panel.names) > 1:
                        raise  # alone, the reward may have enough memory for the whole batch
                except Exception:  # any reward may be a user's own; tried again with fewer images below
                    continue
    return {
        name: _records(panel[name], opened, values[name]) if name in values else _halve(panel[name], opened)
        for name in names
    }


def _halve(reward: Reward, opened: Sequence[tuple[Sample, Image]]) -> list[Score]:
    """Scores of images that could not be scored together: halve them until the failing ones are alone."""
    if not opened:
        return []
    try:
        values = reward.score([image for _, image in opened], [sample.prompt for sample, _ in opened])
    except Exception as error:  # an error of the reward is the failure of one image, not of the run
        if len(opened) == 1:
            return [_failed(opened[0][0], error)]
        middle = (len(opened) + 1) // 2
        return [*_halve(reward, opened[:middle]), *_halve(reward, opened[middle:])]
    return _records(reward, opened, _shortest(values))


def _shortest(values: Tensor) -> list[float]:
    """Return scores (B,) with as many digits as identify them: 9 for float32, which tolist() gives as 17."""
    return [float(str(value)) for value in values.detach().cpu().numpy()]


def _records(reward: Reward, opened: Sequence[tuple[Sample, Image]], values: Sequence[float]) -> list[Score]:
    return [
        _record(sample, value, truncated=reward.truncated([sample.prompt]) > 0)
        for (sample, _), value in zip(opened, values, strict=True)
    ]


def _record(sample: Sample, value: float, *, truncated: bool) -> Score:
    if math.isnan(value):
        return _scored(sample, "abstained", reason=_CANNOT_JUDGE, truncated=truncated)
    if math.isinf(value):
        return _scored(sample, "failed", reason=f"the reward gave {value}", truncated=truncated)
    return _scored(sample, "ok", score=value, truncated=truncated)


def _failed(sample: Sample, error: Exception) -> Score:
    return _scored(sample, "failed", reason=f"{type(error).__name__}: {first_line(error)}")


def _scored(sample: Sample, status: Status, **outcome: Any) -> Score:
    return Score(*sample.key, status, **outcome, image_sha256=sample.sha256)
