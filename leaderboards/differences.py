"""Find the prompts on which two runs differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaderboards.records import Key, ScoreSet
from leaderboards.scores import RewardScores, RunScores
from leaderboards.stats import spread


@dataclass(frozen=True)
class PromptChange:
    """How one prompt's images changed from one run to another."""

    prompt_id: int
    prompt: str
    change: float
    """With one reward the change of its score, with several their mean gain in standard deviations of the
    first run's prompts."""
    images: tuple[str, str]
    """Paths of the first image of the prompt in both runs; "" for an image that is not on this machine, such
    as those of imported scores."""


def changes(before: RunScores, after: RunScores, columns: Sequence[ScoreSet]) -> list[PromptChange]:
    """Compare two runs prompt by prompt.

    Args:
        before: Scores of the first run.
        after: Scores of the second run.
        columns: Rewards to compare by; both runs must have them. Where lower scores are better, the sign of
            the difference is turned.

    Returns:
        All prompts that have an image and all these scores in both runs, from the largest loss to the largest
        gain.
    """
    first, second = (
        {(scored.score_set.reward, scored.score_set.score_id): scored for scored in run.scored}
        for run in (before, after)
    )
    keys = [(column.reward, column.score_id) for column in columns]
    by_prompt: dict[int, list[float]] = {}
    for key in keys:
        for prompt, gain in _gains(first[key], second[key], standardised=len(keys) > 1).items():
            by_prompt.setdefault(prompt, []).append(gain)
    shown = _first_images(before, after)
    result = [
        PromptChange(
            prompt,
            before.samples[shown[prompt]].prompt,
            float(np.mean(gains)),
            _paths(before, after, shown[prompt]),
        )
        for prompt, gains in by_prompt.items()
        if len(gains) == len(keys) and prompt in shown
    ]
    return sorted(result, key=lambda change: (change.change, change.prompt_id))


def _gains(before: RewardScores, after: RewardScores, *, standardised: bool) -> dict[int, float]:
    prompts, differences = after.minus(before)
    if not before.score_set.higher_is_better:
        differences = -differences
    if standardised:
        deviation = spread(before.by_prompt[1])
        differences = differences / deviation if deviation > 0 else np.zeros(len(differences))
    return dict(zip(prompts.tolist(), differences.tolist(), strict=True))


def _first_images(before: RunScores, after: RunScores) -> dict[int, Key]:
    """For each prompt, the first sample that both runs have an image of."""
    first: dict[int, Key] = {}
    for key, sample in before.samples.items():
        other = after.samples.get(key)
        if sample.image is not None and other is not None and other.image is not None:
            first.setdefault(key[0], key)
    return first


def _paths(before: RunScores, after: RunScores, key: Key) -> tuple[str, str]:
    first, second = (run.run.image_path(run.samples[key]) for run in (before, after))
    return str(first) if first.is_file() else "", str(second) if second.is_file() else ""
