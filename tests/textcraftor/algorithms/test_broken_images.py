"""Images with latents that are not finite are left out of an update of reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from textcraftor.algorithms.base import ClippedOptimiser
from textcraftor.config import TrainConfig
from textcraftor.settings import OptimiserSettings

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REWARDS = """
from rewards import Reward, RewardInfo, register

@register(RewardInfo("broken-red", uses_prompt=False, differentiable=False))
class Red(Reward):
    def _score(self, pixels, prompts):
        return (pixels[:, 0] - pixels[:, 1:].mean(1)).mean((1, 2)).detach()
"""
REWARD = "Red"
PROMPTS = ["a cat", "a dog", "a hen", "a cow"]
CONFIG = {
    "steps": 4, "tuned_steps": 4, "eval_tuned_steps": 4, "guidance": 3.0, "batch": 8, "group": 4,
    "updates": 1, "lr": 1e-3, "every": 0, "save_every": 1,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "ddpo": {"algorithm": "ddpo", "eta": 1.0},
    "grpo": {"algorithm": "grpo", "eta": 1.0},
    "nft": {"algorithm": "nft"},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_image_does_not_spoil_the_update(
    method: str, config_for: Callable[..., TrainConfig], algorithm_for: Any, batch: Any
) -> None:
    """Its latents are not finite from the start of the tuned steps on."""
    algorithm, samples = algorithm_for(config_for(policy_updates=2, **METHODS[method])), batch(8, group=4)
    start = algorithm.start

    def breaking(samples: Any, original: Any) -> tuple[Any, torch.Tensor]:
        rollout, z = start(samples, original)
        return rollout, torch.where(torch.arange(len(z))[:, None, None, None] == 2, torch.nan, z)

    algorithm.start = breaking
    before = [p.detach().clone() for p in algorithm.trainable.trained_parameters().values()]
    result = algorithm.step(samples)
    assert np.isfinite([result.grad_norm, *result.extra.values()]).all()
    assert result.skipped == [samples.samples[2]]
    after = list(algorithm.trainable.trained_parameters().values())
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_an_update_of_broken_images_alone_changes_nothing(
    method: str, config_for: Callable[..., TrainConfig], algorithm_for: Any, batch: Any
) -> None:
    algorithm = algorithm_for(config_for(policy_updates=2, **METHODS[method]))
    start = algorithm.start

    def breaking(samples: Any, original: Any) -> tuple[Any, torch.Tensor]:
        rollout, z = start(samples, original)
        return rollout, torch.full_like(z, torch.nan)

    optimiser = algorithm.optimiser
    parameters = algorithm.trainable.trained_parameters().values()
    algorithm.optimiser = ClippedOptimiser.adamw(optimiser.accelerator, parameters, OptimiserSettings())
    algorithm.step(batch(8, group=4))  # AdamW has moments
    before = [parameter.detach().clone() for parameter in parameters]
    algorithm.start = breaking
    result = algorithm.step(batch(8, group=4))
    assert result.grad_norm == 0
    assert len(result.skipped) == 8
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
