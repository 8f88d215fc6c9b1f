"""Where two runs differ most: prompts, by one reward or by all of a table's together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaderboards.scores import RunScores, Scored, paired


@dataclass(frozen=True)
class PromptChange:
    """One prompt's change from one run to another."""

    prompt_id: int
    prompt: str
    change: float
    """By one reward: of its score. By several: their mean gain, in deviations of the first run's prompts."""
    images: tuple[str, str]
    """Paths of both runs' first images of it."""


def changes(before: RunScores, after: RunScores, rewards: Sequence[str]) -> list[PromptChange]:
    """Every prompt that all of these rewards score in both runs, from the greatest loss to the greatest gain.

    Rewards whose lower scores are better count the other way round. Raises ValueError for a reward that one
    of the runs was not scored by.
    """
    own, theirs = ({scored.score_set.reward: scored for scored in run.scored} for run in (before, after))
    for reward in rewards:
        if reward not in own or reward not in theirs:
            known = ", ".join(name for name in own if name in theirs) or "none"
            raise ValueError(f"not both runs were scored by {reward!r}; both have {known}")
    totals: dict[int, list[float]] = {}
    for reward in rewards:
        for prompt, gain in _gains(own[reward], theirs[reward], standardised=len(rewards) > 1).items():
            totals.setdefault(prompt, []).append(gain)
    found = [
        PromptChange(prompt, *_shown(before, after, prompt, float(np.mean(gains))))
        for prompt, gains in totals.items()
        if len(gains) == len(rewards)
    ]
    return sorted(found, key=lambda change: (change.change, change.prompt_id))


def _gains(before: Scored, after: Scored, *, standardised: bool) -> dict[int, float]:
    prompts, differences = paired(after, before)
    if not before.score_set.higher_is_better:
        differences = -differences
    if standardised:
        _, values = before.by_prompt
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        differences = differences / spread if spread > 0 else np.zeros(len(differences))
    return dict(zip(prompts.tolist(), differences.tolist(), strict=True))


def _shown(
    before: RunScores, after: RunScores, prompt: int, change: float
) -> tuple[str, float, tuple[str, str]]:
    first = next(key for key in before.samples if key[0] == prompt and key in after.samples)
    pair = [run.run.image_path(run.samples[first]) for run in (before, after)]
    return before.samples[first].prompt, change, (str(pair[0]), str(pair[1]))
