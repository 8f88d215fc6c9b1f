"""Properties of the world, measured with rewards of known taste and a VAE that keeps or loses everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rewards
from rewards.base import Reward
from rewards.info import RewardInfo
from rewards.world.captions import parse_prompt
from rewards.world.oracle import WorldOracle
from rewards.world.prompts import CATEGORIES, WorldPrompt, world_prompts
from rewards.world.scenes import Style
from rewards.world.training import data
from textcraftor.micro.training import properties
from textcraftor.micro.training.properties import BEST, MIDDLING, Decoded

PROMPTS = world_prompts("validation")[:8]


class FakeVae:
    """Has the image as its latents.

    Args:
        keep: Share of the contrast that decoded images keep; 0 makes all of them grey.
    """

    def __init__(self, keep: float = 1.0) -> None:
        self._keep = keep

    def encode(self, images: Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=images))

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=self._keep * latents)


class Saturated(Reward):
    """Difference of the strongest and the weakest colour channel, in the most colourful pixels."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return (pixels.amax(dim=1) - pixels.amin(dim=1)).flatten(1).quantile(0.97, dim=1)


class Wordy(Reward):
    """Number of letters of the prompt, whatever the picture."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(prompt)) for prompt in prompts])


class Agreeing(WorldOracle):
    """The oracle's score on another scale."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return 3.0 + 2.0 * super()._score(pixels, prompts)


class Opposed(WorldOracle):
    """The negative of the oracle's score."""

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return -super()._score(pixels, prompts)


def fake(kind: type[Reward]) -> Reward:
    return kind(RewardInfo(f"fake-{kind.__name__.lower()}", profile="squash-64"))


@pytest.fixture
def perfect() -> Decoded:
    return Decoded(FakeVae())


@pytest.fixture
def oracle() -> Reward:
    return rewards.load("world-oracle")


def test_decoded_images_do_not_depend_on_the_batch(perfect: Decoded) -> None:
    scenes = data.random_scenes(np.random.default_rng(1), 5)
    assert torch.equal(perfect.render(scenes, batch=2), perfect.render(scenes))
    torch.testing.assert_close(perfect.render(scenes), data.render_batch(scenes), rtol=0, atol=1e-6)
    grey = Decoded(FakeVae(0.0)).render(scenes)
    assert grey.min() == grey.max() == 128 / 255


@pytest.mark.parametrize("style", [MIDDLING, BEST], ids=["middling", "best"])
def test_the_ceiling_is_one_where_nothing_is_lost(perfect: Decoded, style: Style) -> None:
    ceiling = perfect.ceiling(style, 60)
    assert ceiling.claims > 0.98
    assert ceiling.all_true > 0.95
    assert sum(count for _, _, count in ceiling.groups.values()) == 60
    assert "two objects" in ceiling.groups
    lost = Decoded(FakeVae(0.0)).ceiling(style, 20)
    assert lost.claims < 0.3
    assert lost.all_true == 0.0


def test_accuracy_is_counted_by_group() -> None:
    scene = data.random_scenes(np.random.default_rng(3), 1, pairs=0.0)[0]
    item = scene.items[0]
    true = f"a {item.colour} {item.shape} on a {scene.background} background"
    false = f"a {item.colour} {item.shape} and a {item.colour} {item.shape}"  # the second is missing
    prompts = [WorldPrompt(true, "object", "test"), WorldPrompt(false, "relation", "test")]
    result = properties.by_category(data.render_batch([scene] * 2), prompts)
    assert result.groups["object"] == result.groups["one object"] == (1.0, 1.0, 1)
    assert result.groups["relation"] == result.groups["two objects"] == (2 / 5, 0.0, 1)
    assert result.claims == pytest.approx(6 / 9)
    assert result.all_true == 0.5


def test_all_claims_are_true_of_true_scenes() -> None:
    scenes = properties.true_scenes(PROMPTS, BEST)
    for prompt, scene in zip(PROMPTS, scenes, strict=True):
        assert parse_prompt(prompt.text).holds(scene)
        assert scene.style == BEST


def test_every_category_has_one_or_two_objects(perfect: Decoded) -> None:
    prompts = world_prompts("validation")[:40]
    assert {prompt.category for prompt in prompts} == set(CATEGORIES)
    result = properties.by_category(perfect.render(properties.true_scenes(prompts, MIDDLING)), prompts)
    assert set(result.groups) == {*CATEGORIES, "one object", "two objects"}
    assert result.groups["one object"][2] + result.groups["two objects"][2] == len(prompts)
    for prompt in prompts:
        assert len(parse_prompt(prompt.text).items) == 1 + (prompt.category in ("relation", "sizes"))


def test_a_taste_for_one_look_is_not_a_taste_for_all(perfect: Decoded) -> None:
    changes = perfect.looks({"saturated": fake(Saturated), "rule": rewards.load("world-rule")}, 20)
    assert set(changes["saturated"]) == {field.name for field in fields(Style)}
    assert max(changes["saturated"], key=lambda axis: changes["saturated"][axis]) == "saturation"
    assert properties.style_share(changes["saturated"]) < 0.1
    assert properties.style_share(changes["rule"]) > 0.33
    assert properties.style_share({"a": 2.0, "b": 0.5}) == 0.25


def test_a_taste_for_looks_is_not_neutral(perfect: Decoded) -> None:
    tastes = {"saturated": fake(Saturated), "wordy": fake(Wordy)}
    changes = perfect.neutrality(tastes, 20)
    assert changes["saturated"] > 0.5
    assert changes["wordy"] == 0.0


def test_the_oracle_notices_near_misses_and_a_reward_without_prompts_does_not(perfect: Decoded) -> None:
    shares = perfect.near_misses({"agreeing": fake(Agreeing), "saturated": fake(Saturated)}, 5)
    assert set(shares["agreeing"]) == set(data.MISSES)
    assert min(shares["agreeing"].values()) >= 0.8
    assert set(shares["saturated"].values()) == {0.0}


def test_agreement_within_prompts_is_that_of_the_ranking(perfect: Decoded, oracle: Reward) -> None:
    rng = np.random.default_rng(2)
    true = properties.true_scenes(PROMPTS, MIDDLING)
    missed = [data.near_miss(rng, scene, of=("shape", "colour", "background")) for scene in true]
    missed[0] = true[0]  # all images of the first prompt are right
    tries = [perfect.render(scenes) for scenes in (missed, true, missed)]
    results, mean = properties.measure_within_prompts(
        tries, PROMPTS, {"agreeing": fake(Agreeing), "opposed": fake(Opposed)}, oracle
    )
    assert results["agreeing"].prompts == len(PROMPTS) - 1
    assert results["agreeing"].correlation == pytest.approx(1.0)
    assert results["opposed"].correlation == pytest.approx(-1.0)
    assert results["opposed"].best < mean < results["agreeing"].best
    assert results["agreeing"].best == pytest.approx(1.0, abs=0.05)


def test_a_reward_that_never_rises_or_never_differs_counts_as_nothing(oracle: Reward) -> None:
    assert properties.style_share({"a": -2.0, "b": -1.0}) == 0.0
    tries = [data.render_batch(properties.true_scenes(PROMPTS, MIDDLING, seed)) for seed in (1, 2)]
    tries[1][0] = 0.5
    results, _ = properties.measure_within_prompts(tries, PROMPTS, {"wordy": fake(Wordy)}, oracle)
    assert results["wordy"].prompts > 0
    assert results["wordy"].correlation == 0.0
