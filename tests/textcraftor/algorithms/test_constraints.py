"""Rewards that must not fall: the multipliers' rule, and that a run obeys, logs and resumes them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from rewards.combine.terms import MixTerm
from tcbench.errors import ConfigError, UnknownName
from textcraftor.algorithms.constraints import Constraints
from textcraftor.algorithms.gradient import GradientAlgorithm
from textcraftor.algorithms.latent_scores import LatentScores
from textcraftor.config import TrainConfig, make_config
from textcraftor.io.checkpoint import LOG, TrainFolder
from textcraftor.training import train

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONSTRAINED = ("world-clip",)
QUICK: dict[str, Any] = {
    "optimiser.batch": 2, "schedule.tuned_steps": 1, "schedule.steps": 2, "validation.every": 0,
    "validation.eval_tuned_steps": 1, "validation.selection_reward": "", "logging.save_every": 1,
    "rewards.mix": "world-aesthetic=1,world-clip=2", "optimiser.lr_schedule": "constant",
}  # fmt: skip


def config_of(**changes: Any) -> TrainConfig:
    return make_config("micro", overrides=QUICK | {key.replace("__", "."): v for key, v in changes.items()})


def test_multipliers_rise_below_the_base_and_fall_to_zero_above() -> None:
    constraints = Constraints(("a", "b"))
    constraints.update({"a": -1.5, "b": 0.5})
    first = dict(constraints.multipliers)
    assert first["a"] == pytest.approx(2 + 0.5 * 1.5)
    assert first["b"] == pytest.approx(2 - 0.5 * 0.5)
    constraints.update({"a": math.nan, "b": 100.0})
    assert constraints.multipliers == {"a": first["a"], "b": 0.0}
    other = Constraints(("a", "b"))
    shared = other.multipliers
    other.load_state(constraints.state())
    assert shared == constraints.multipliers  # the scorer holds this mapping
    assert Constraints(()).state() == {}


def test_the_multiplier_follows_the_logged_reward(tmp_path: Path) -> None:
    train(config_of(rewards__constraints=CONSTRAINED, optimiser__updates=3), tmp_path / "out", device="cpu")
    folder = TrainFolder(tmp_path / "out")
    scale = folder.record()["calibration"]["world-clip"]
    expected, multipliers = 2.0, []
    for row in folder.rows(LOG):
        multipliers.append((row["multiplier/world-clip"], expected))
        expected = max(0.0, expected - 0.5 * (row["reward/world-clip"] - scale["mean"]) / scale["std"])
    assert len({value for value, _ in multipliers}) == 3
    for value, by_hand in multipliers:
        assert value == pytest.approx(by_hand, rel=1e-4)


def test_skipped_images_are_no_part_of_the_mean() -> None:
    """Rewards see grey in place of broken pixels, so the score of a skipped image is finite."""
    zeros = torch.zeros(3)
    scores = LatentScores(zeros, {"world-clip": torch.tensor([1.0, -60.0, 3.0])}, {}, zeros, skipped=(1,))
    algorithm = SimpleNamespace(
        constraints=Constraints(CONSTRAINED),
        scorer=SimpleNamespace(mix=SimpleNamespace(terms={"world-clip": MixTerm(5.0, mean=1.0, std=0.5)})),
        optimiser=SimpleNamespace(accelerator=SimpleNamespace(gather=lambda values: values)),
    )
    assert GradientAlgorithm._mean_values(cast(GradientAlgorithm, algorithm), scores) == {"world-clip": 2.0}


def test_resume_gives_identical_weights(tmp_path: Path) -> None:
    changes = {"rewards__constraints": CONSTRAINED, "rewards__balance": True}
    for name, starts in (("whole", [3]), ("parts", [1, 3])):
        for updates in starts:
            train(config_of(**changes, optimiser__updates=updates), tmp_path / name, device="cpu")
    states = []
    for name in ("whole", "parts"):
        newest = TrainFolder(tmp_path / name).newest()
        assert newest is not None
        states.append(load_file(newest.path / "text_encoder" / "model.safetensors"))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rewards__calibration": ""}, ConfigError, "which a calibration holds"),
        (
            {"algorithm__name": "denoising", "data__pairs": "x", "data__prompts": ""},
            ConfigError,
            "not use the gra",
        ),
        ({"rewards__constraints": ("world-hps",)}, UnknownName, "reward in rewards.constraints 'world-hps'"),
    ],
)
def test_constraints_that_cannot_apply_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(config_of(**{"rewards__constraints": CONSTRAINED} | changes), tmp_path / "out", device="cpu")
