"""Validation: its images, paired changes, checkpoint selection and the alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rewards.combine.mix import RewardMix
from rewards.combine.panel import Panel
from rewards.combine.terms import MixTerm
from rewards.registry import load as load_reward
from textcraftor.config import _SAMPLERS
from textcraftor.diffusion.loading import load_pipeline
from textcraftor.diffusion.prompts import initial_latents, noise_seed
from textcraftor.diffusion.runner import EncoderWindow, PipelineRunner
from textcraftor.diffusion.sampling import Denoiser
from textcraftor.diffusion.schedule import Schedule
from textcraftor.settings import MemorySettings, TrainableSettings
from textcraftor.tuned import TunedPipeline
from textcraftor.validation import NOISES, VALIDATION_SEED, Validation, Validator, _paired_change

# inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a cat", "a dog", "a hen", "a cow", "a pig"]


def validation(update: int, selection: list[float], trained: list[float]) -> Validation:
    return Validation(update, {"chosen": selection, "trained": trained}, None, 0.0)


@pytest.mark.parametrize("sampler", _SAMPLERS)
def test_validation_images_equal_those_of_a_run(tiny_pipeline: Path, sampler: str) -> None:
    pipe = load_pipeline(tiny_pipeline, device="cpu", dtype="float32", sampler=sampler)
    tuned = TunedPipeline(pipe, TrainableSettings(), guided=True)
    with torch.no_grad():
        for parameter in tuned.trained_parameters().values():
            parameter.mul_(1.4)
    mix = RewardMix(Panel(["world-rule"]), {"world-rule": MixTerm(2.0)})
    selection: Any = load_reward("world-siglip")
    denoiser = Denoiser(pipe.unet, 3.0)
    validator = Validator(
        tuned,
        mix,
        selection,
        denoiser,
        (4, 8, 8),
        PROMPTS,
        steps=5,
        tuned_steps=3,
        memory=MemorySettings(),
    )
    first, images = validator.validate(0)
    again, same = validator.validate(1, first)  # with the prefix of the first
    assert denoiser.calls == 0  # not counted as training cost

    others = {"tuned": tuned.pipeline}
    runner = PipelineRunner(pipe, Schedule(sampler, 5, 3.0), others, (EncoderWindow({"tuned": 1.0}, 3),))
    texts = [prompt for prompt in PROMPTS for _ in range(NOISES)]
    seeds = [noise_seed(VALIDATION_SEED, n, k) for n in range(len(PROMPTS)) for k in range(NOISES)]
    theirs = runner.generate(texts, initial_latents(seeds, (4, 8, 8)))
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), theirs, atol=5e-6)
    assert torch.equal(images, same)
    assert again.changes["trained"][0] == 0
    expected = load_reward("world-rule").score(images, texts).view(-1, NOISES).mean(dim=1)
    np.testing.assert_allclose(first.scores["world-rule"], expected, rtol=1e-5)
    np.testing.assert_allclose(first.scores["trained"], 2 * expected, rtol=1e-5)
    assert first.diversity is not None
    assert first.diversity > 0
    assert first.drift > 0
    assert Validation.from_row(first.to_row()) == first


def test_alarm_requires_a_clear_fall_while_trained_rewards_rise() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 40)
    noise = rng.normal(0, 0.05, 40)
    start = validation(0, base.tolist(), base.tolist())
    fell = validation(50, (base - 0.3 + noise).tolist(), (base + 1).tolist())
    assert "since update 0 the selection reward chosen fell by 0.2" in fell.over_optimisation_alarm(
        [start], "chosen"
    )
    little = validation(50, (base - 0.1 + 0.1 * noise).tolist(), (base + 1).tolist())
    assert _paired_change(little, start, "chosen").high < 0
    assert not little.over_optimisation_alarm([start], "chosen")
    both = validation(50, (base - 0.3 + noise).tolist(), (base - 1).tolist())
    assert not both.over_optimisation_alarm([start], "chosen")
    chance = validation(50, (base + noise - noise.mean()).tolist(), (base + 1).tolist())
    assert not chance.over_optimisation_alarm([start], "chosen")
    assert not fell.over_optimisation_alarm([], "chosen")
    rose = validation(25, (base + 0.5).tolist(), (base + 0.5).tolist())
    later = validation(50, (base + noise).tolist(), (base + 2).tolist())
    assert "since update 25" in later.over_optimisation_alarm(
        [start, rose], "chosen"
    )  # against the best, not the first


def test_latest_checkpoint_not_clearly_below_the_best_is_selected() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 40)
    noise = rng.normal(0, 0.5, 40)
    good = validation(50, (base + 0.1).tolist(), base.tolist())
    alike = validation(100, (base + 0.1 + noise - noise.mean() - 0.02).tolist(), base.tolist())
    fell = validation(150, (base - 1 + noise).tolist(), base.tolist())
    assert Validation.select([good, alike, fell], "chosen") is alike
    assert Validation.select([good, fell], "chosen") is good
    small = validation(160, (base - 0.05 + 0.01 * noise).tolist(), base.tolist())
    assert _paired_change(small, good, "chosen").high < 0  # certain, but less than a fifth of a deviation
    assert Validation.select([good, small], "chosen") is small
    better = validation(200, (base + 0.9 + noise).tolist(), base.tolist())
    assert Validation.select([good, alike, fell, better], "chosen") is better


def test_changes_are_paired() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(0, 10, 50)
    now = validation(1, (base + 0.1 + rng.normal(0, 0.01, 50)).tolist(), base.tolist())
    change = _paired_change(now, validation(0, base.tolist(), base.tolist()), "chosen")
    assert change.low > 0  # far below the spread between prompts
    assert change.value == pytest.approx(0.1, abs=0.01)
