"""From a scored run to a calibration of its rewards."""

from __future__ import annotations

from statistics import fmean, stdev

from leaderboards.records import RunFolder, ScoreSet
from rewards.combine.calibration import Calibration, RewardStatistics

FEWEST = 100
"""Pictures, below which a mean and a deviation say little."""

KEPT = ("versions", "python", "device_name", "threads", "commit")
"""Of the environments that drew and scored: what can change a score."""


def calibrate(run: RunFolder) -> Calibration:
    """The mean and deviation of each reward that scored the run.

    Raises ValueError for a run with fewer than `FEWEST` scores of a reward, and for a reward that gave all
    pictures the same score.
    """
    sets = run.score_sets()
    if not sets:
        raise ValueError(f"{run.path} has no scores; `tcbench score {run.path} --rewards ...` makes them")
    header = run.header
    return Calibration(
        rewards={found.reward: _measured(run, found) for found in sets},
        suite=header.suite,
        suite_sha256=header.suite_sha256,
        system=header.system,
        generation_id=header.generation_id,
        provenance=tuple({key: made[key] for key in KEPT if key in made} for made in header.provenance),
    )


def _measured(run: RunFolder, found: ScoreSet) -> RewardStatistics:
    scores = [score.score for score in run.scores(found).values() if score.score is not None]
    if len(scores) < FEWEST:
        raise ValueError(
            f"{run.path} has {len(scores)} scores of {found.reward}, fewer than {FEWEST}: draw more pictures"
        )
    std = stdev(scores)
    if not std:
        raise ValueError(f"{found.reward} gave every picture of {run.path} the same score: no scale to find")
    return RewardStatistics(fmean(scores), std, len(scores), found.score_id)
