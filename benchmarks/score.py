"""Scoring the images of a run with one reward: in the run's stored batches, one record an image."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.generate import split
from leaderboards.records import Key, RunFolder, Sample, Score, ScoreSet, Status
from tcbench.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from rewards.base import Reward

CANNOT_JUDGE = "the reward cannot judge this prompt"


@dataclass(frozen=True)
class Scored:
    """How a reward's column of a run stands: counts over the planned images."""

    reward: str
    score_id: str
    mean: float | None
    scored: int
    abstained: int
    failed: Mapping[Key, str]
    truncated: int
    """Images whose prompt is longer than the reward's text encoder reads."""


def score(run: RunFolder, column: ScoreSet, load_reward: Callable[[], Reward], progress: Progress) -> int:
    """Score every planned image that has no score yet; returns how many. The reward is loaded only if one is.

    Batches are those of generation, redone whole, so an interrupted run ends with the scores of an
    uninterrupted one. Images come from their files, never from memory, and must still be the bytes on record.
    """
    samples = {k: s for k, s in run.samples().items() if k in run.header.planned and s.image is not None}
    have = {key for key, old in run.scores(column).items() if old.status != "failed"}
    todo = set(samples) - have
    progress.stage(column.reward, len(samples), len(samples) - len(todo))
    if not todo:
        return 0
    reward, done = load_reward(), 0
    with run.score_appender(column) as appender:
        for keys in run.batches():
            batch = [samples[key] for key in keys if key in samples]
            if todo.isdisjoint(sample.key for sample in batch):
                continue
            scores = [s for s in _score_batch(run, reward, batch) if s.key in todo]
            appender.append(scores)
            progress.advance(len(scores))
            done += len(scores)
    return done


def summarise(run: RunFolder, column: ScoreSet) -> Scored:
    """The column's counts over the planned images."""
    scores = {key: s for key, s in run.scores(column).items() if key in run.header.planned}
    values = [s.score for s in scores.values() if s.score is not None]
    return Scored(
        reward=column.reward,
        score_id=column.score_id,
        mean=math.fsum(values) / len(values) if values else None,
        scored=len(values),
        abstained=sum(s.status == "abstained" for s in scores.values()),
        failed={key: s.reason or "unknown" for key, s in scores.items() if s.status == "failed"},
        truncated=sum(s.truncated for s in scores.values()),
    )


def _score_batch(run: RunFolder, reward: Reward, batch: Sequence[Sample]) -> list[Score]:
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
    first = (str(error).splitlines() or [""])[0]
    return _scored(sample, "failed", reason=f"{type(error).__name__}: {first}")


def _scored(sample: Sample, status: Status, **outcome: Any) -> Score:
    return Score(*sample.key, status, **outcome, image_sha256=sample.sha256)


def open_image(run: RunFolder, sample: Sample) -> Image:
    """The sample's image, decoded. Raises ValueError when the file is not the one on record."""
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
