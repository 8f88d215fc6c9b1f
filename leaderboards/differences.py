"""Where two runs differ most: prompts, by one reward or by all of a table's together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaderboards.records import Key, ScoreSet
from leaderboards.scores import RewardScores, RunScores, paired


@dataclass(frozen=True)
class PromptChange:
    """One prompt's change from one run to another."""

    prompt_id: int
    prompt: str
    change: float
    """By one reward: of its score. By several: their mean gain, in deviations of the first run's prompts."""
    images: tuple[str, str]
    """Paths of both runs' first images of it."""


def changes(before: RunScores, after: RunScores, columns: Sequence[ScoreSet]) -> list[PromptChange]:
    """Every prompt that all of these rewards score in both runs, from the greatest loss to the greatest gain.

    Rewards whose lower scores are better count the other way round.
    """
    own, theirs = (
        {(scored.score_set.reward, scored.score_set.score_id): scored for scored in run.scored}
        for run in (before, after)
    )
    keys = [(column.reward, column.score_id) for column in columns]
    totals: dict[int, list[float]] = {}
    for key in keys:
        for prompt, gain in _gains(own[key], theirs[key], standardised=len(keys) > 1).items():
            totals.setdefault(prompt, []).append(gain)
    shown = _first_drawn(before, after)
    found = [
        PromptChange(
            prompt,
            before.samples[shown[prompt]].prompt,
            float(np.mean(gains)),
            _images(before, after, shown[prompt]),
        )
        for prompt, gains in totals.items()
        if len(gains) == len(keys)
    ]
    return sorted(found, key=lambda change: (change.change, change.prompt_id))


def _gains(before: RewardScores, after: RewardScores, *, standardised: bool) -> dict[int, float]:
    prompts, differences = paired(after, before)
    if not before.score_set.higher_is_better:
        differences = -differences
    if standardised:
        _, values = before.by_prompt
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        differences = differences / spread if spread > 0 else np.zeros(len(differences))
    return dict(zip(prompts.tolist(), differences.tolist(), strict=True))


def _first_drawn(before: RunScores, after: RunScores) -> dict[int, Key]:
    """Of each prompt, the first sample that both runs have an image of."""
    first: dict[int, Key] = {}
    for key, sample in before.samples.items():
        other = after.samples.get(key)
        if sample.image is not None and other is not None and other.image is not None:
            first.setdefault(key[0], key)
    return first


def _images(before: RunScores, after: RunScores, key: Key) -> tuple[str, str]:
    return str(before.run.image_path(before.samples[key])), str(after.run.image_path(after.samples[key]))
