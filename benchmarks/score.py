"""Score the images of a run: in the run's stored batches, one record per image and reward."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.generate import split
from benchmarks.resolve import ResolvedReward
from leaderboards.records import Key, Sample, Score, ScoreSet, Status
from leaderboards.run_state import RunState
from tcbench.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from rewards.base import Reward

CANNOT_JUDGE = "the reward cannot judge this prompt"


@dataclass(frozen=True)
class RewardSummary:
    """One reward's scores of a run in short: counts over the planned images."""

    reward: str
    score_id: str
    mean: float | None
    scored: int
    abstained: int
    failed: Mapping[Key, str]
    """Why images have no score."""
    truncated: int
    """Images whose prompt is longer than the reward's text encoder reads."""


def score_images(run: RunState, rewards: Sequence[ResolvedReward], device: str, progress: Progress) -> int:
    """Score every planned image that has no score yet; return the number of new scores.

    Batches are those of generation, and a batch with a missing score is scored whole, so an interrupted run
    ends with the scores of an uninterrupted one. Images come from their files, never from memory, and must
    still be the bytes on record.
    """
    return sum(_score_one(run, reward, device, progress) for reward in rewards)


def _score_one(run: RunState, resolved: ResolvedReward, device: str, progress: Progress) -> int:
    score_set = resolved.score_set
    samples = {k: s for k, s in run.samples.items() if k in run.header.planned and s.image is not None}
    have = {key for key, old in run.scores(score_set).items() if old.status != "failed"}
    todo = set(samples) - have
    progress.stage(score_set.reward, len(samples), len(samples) - len(todo))
    if not todo:
        return 0
    reward, done = resolved.load(device), 0
    for keys in run.batches:
        batch = [samples[key] for key in keys if key in samples]
        if todo.isdisjoint(sample.key for sample in batch):
            continue
        scores = [s for s in _score_batch(run, reward, batch) if s.key in todo]
        run.append_scores(score_set, scores)
        progress.advance(len(scores))
        done += len(scores)
    return done


def summarise(run: RunState, score_set: ScoreSet) -> RewardSummary:
    """Count and average one reward's scores over the planned images."""
    scores = {key: s for key, s in run.scores(score_set).items() if key in run.header.planned}
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


def _score_batch(run: RunState, reward: Reward, batch: Sequence[Sample]) -> list[Score]:
    """Scores of one batch. An image that cannot be read or scored fails alone, with its reason."""
    opened: list[tuple[Sample, Image]] = []
    scores: list[Score] = []
    for sample in batch:
        try:
            opened.append((sample, open_image(run, sample)))
        except (OSError, ValueError) as error:
            scores.append(_failed(sample, error))
    return scores + _score_images(reward, opened)


def _score_images(reward: Reward, opened: Sequence[tuple[Sample, Image]]) -> list[Score]:
    if not opened:
        return []
    try:
        values = reward.score([image for _, image in opened], [sample.prompt for sample, _ in opened])
    except (
        Exception
    ) as error:  # any reward may be a user's own; its error is one image's failure, not the run's
        if len(opened) == 1:
            return [_failed(opened[0][0], error)]
        return [s for half in split(opened, (len(opened) + 1) // 2) for s in _score_images(reward, half)]
    cut = [reward.truncated([sample.prompt]) > 0 for sample, _ in opened]
    return [_record(s, v, flag) for (s, _), v, flag in zip(opened, values.tolist(), cut, strict=True)]


def _record(sample: Sample, value: float, truncated: bool) -> Score:
    if math.isnan(value):
        return _scored(sample, "abstained", reason=CANNOT_JUDGE, truncated=truncated)
    if math.isinf(value):
        return _scored(sample, "failed", reason=f"the reward gave {value}", truncated=truncated)
    return _scored(sample, "ok", score=value, truncated=truncated)


def _failed(sample: Sample, error: Exception) -> Score:
    message = str(error).splitlines()[:1] or [""]
    return _scored(sample, "failed", reason=f"{type(error).__name__}: {message[0]}")


def _scored(sample: Sample, status: Status, **outcome: Any) -> Score:
    return Score(*sample.key, status, **outcome, image_sha256=sample.sha256)


def open_image(run: RunState, sample: Sample) -> Image:
    """Decode a sample's image.

    Raises:
        ValueError: If the file is not the one on record.
    """
    from PIL import Image

    path = run.image_path(sample)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sample.sha256:
        raise ValueError(
            f"{path} is not the image that was recorded; restore it, or remove the run and make it again"
        )
    image = Image.open(io.BytesIO(content))
    image.load()
    return image
