"""Compute the scale of each reward from a scored run."""

from __future__ import annotations

from statistics import fmean, stdev

from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from rewards.combine.calibration import Calibration, RewardStatistics
from tcbench.errors import ConfigError, MissingFiles

_FEWEST = 100
"""Smallest number of scores. With fewer, the standard deviation is uncertain by more than 7 percent."""

_PROVENANCE = ("versions", "python", "device_name", "threads", "commit")
"""Parts of an environment that can change a score."""


def calibrate_run(run: RunState) -> Calibration:
    """Compute mean and standard deviation of every reward that scored the run.

    Raises:
        MissingFiles: If the run has no scores.
        ConfigError: If a reward has too few scores, or gave all images the same score.
    """
    if not run.score_sets:
        raise MissingFiles(f"{run.path} has no scores; run `tcbench score {run.path} --rewards ...`")
    header = run.header
    return Calibration(
        rewards={score_set.reward: _measure(run, score_set) for score_set in run.score_sets},
        suite=header.suite,
        suite_sha256=header.suite_sha256,
        system=header.system,
        generation_id=header.generation_id,
        provenance=tuple(
            {key: environment[key] for key in _PROVENANCE if key in environment}
            for environment in header.provenance
        ),
    )


def _measure(run: RunState, score_set: ScoreSet) -> RewardStatistics:
    scores = [score.score for score in run.scores(score_set).values() if score.score is not None]
    if len(scores) < _FEWEST:
        raise ConfigError(
            f"{run.path} has {len(scores)} scores of {score_set.reward}; expected at least {_FEWEST}: "
            "generate more images"
        )
    std = stdev(scores)
    if not std:
        raise ConfigError(
            f"{score_set.reward} gave the same score to all images of {run.path}; use another run"
        )
    return RewardStatistics(fmean(scores), std, len(scores), score_set.score_id)
