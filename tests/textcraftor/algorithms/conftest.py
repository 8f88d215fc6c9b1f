"""Algorithms on a tiny pipeline, outside of a training run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm
from textcraftor.algorithms.base import ClippedOptimiser
from textcraftor.algorithms.constraints import Constraints
from textcraftor.algorithms.latent_scores import LatentScorer
from textcraftor.algorithms.rollouts import RolloutStart
from textcraftor.config import TrainConfig
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.sampling import Denoiser
from textcraftor.sources import Batch, PromptSource, SampleOrder
from textcraftor.training import _make_algorithm
from textcraftor.tuned import TunedPipeline


@pytest.fixture
def algorithm_for(tiny_pipeline: Path, toys: Path) -> Callable[[TrainConfig], Any]:
    """Makes the algorithm of a configuration, for the test module's reward `Red` and plain gradient steps."""

    def make(config: TrainConfig) -> Any:
        pipe = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler="ddim")
        mix = RewardMix(Panel([f"{toys}:Red"]), {f"{toys}:Red": MixTerm(1.0)})
        trainable = TunedPipeline(pipe, config.trainable, guided=True)
        parameters = list(trainable.trained_parameters().values())
        sgd = torch.optim.SGD(parameters, lr=1.0)
        return _make_algorithm(
            config,
            trainable,
            RolloutStart(Denoiser(pipe.unet, 3.0), pipe, (4, 8, 8), config.schedule),
            LatentScorer(pipe.vae, mix, config.memory.decode_slice),
            ClippedOptimiser(Accelerator(cpu=True), sgd, parameters, clip=1.0, lr=lambda update: 1.0),
            Constraints(()),
        )

    return make


@pytest.fixture
def batch(request: pytest.FixtureRequest) -> Callable[..., Batch]:
    """Makes the first batch of the test module's `PROMPTS`, with a group of samples of each prompt."""

    def make(count: int, group: int = 1) -> Batch:
        source = PromptSource.from_texts("toy", request.module.PROMPTS)
        return SampleOrder(source, 0, group=group).batch(0, count)

    return make
