"""Properties of the shipped world at small size; the bars are those of docs/world/card.md, less noise."""

from __future__ import annotations

import pytest

import rewards
from benchmarks.systems import STYLE_WORDS, SYSTEMS
from rewards.world.prompts import world_prompts
from rewards.world.training.evaluate import score_batches
from textcraftor.diffusion.pipeline import MICRO
from textcraftor.micro.training import properties
from textcraftor.micro.training.measure import _sample_prompts
from textcraftor.micro.training.properties import BEST, MIDDLING, Decoded

GUIDANCE = SYSTEMS["micro"].schedule.guidance
PROMPTS = world_prompts("validation")[:40]


@pytest.fixture(scope="module")
def decoded() -> Decoded:
    return Decoded.of_pipeline(MICRO)


@pytest.mark.parametrize("style", [MIDDLING, BEST], ids=["middling", "best"])
def test_the_vae_keeps_what_captions_claim(decoded: Decoded, style: properties.Style) -> None:
    result = decoded.ceiling(style, 80)
    assert result.claims > 0.96
    assert result.all_true > 0.88


def test_rewards_see_every_look(decoded: Decoded) -> None:
    names = ("world-rule", "world-aesthetic", "world-blip")
    changes = decoded.looks({name: rewards.load(name) for name in names}, 30)
    for name in names:
        assert properties.style_share(changes[name]) > 0.25, changes[name]


def test_alignment_rewards_do_not_punish_good_pictures(decoded: Decoded) -> None:
    names = ("world-clip", "world-siglip", "world-vqa")
    changes = decoded.neutrality({name: rewards.load(name) for name in names}, 60)
    assert all(abs(change) < 0.7 for change in changes.values()), changes


def test_alignment_rewards_prefer_the_right_caption_to_every_kind_of_near_miss(decoded: Decoded) -> None:
    loaded = {name: rewards.load(name) for name in ("world-clip", "world-vqa")}
    for name, shares in decoded.near_misses(loaded, 30).items():
        assert sum(shares.values()) / len(shares) > 0.8, (name, shares)
        assert min(shares.values()) > 0.5, (name, shares)


def test_alignment_rewards_rank_images_of_a_prompt() -> None:
    tries = [_sample_prompts(MICRO, PROMPTS, GUIDANCE, sample=n).pixels for n in range(4)]
    loaded = {name: rewards.load(name) for name in ("world-clip", "world-vqa")}
    within, mean = properties.measure_within_prompts(tries, PROMPTS, loaded, rewards.load("world-oracle"))
    for name, result in within.items():
        assert result.prompts >= 10
        assert result.correlation > 0.1, (name, result)
        assert result.best > mean, (name, result)


def test_style_words_raise_quality_and_leave_headroom(decoded: Decoded) -> None:
    rule, texts = rewards.load("world-rule"), [prompt.text for prompt in PROMPTS]
    plain, styled = (
        score_batches(rule, _sample_prompts(MICRO, PROMPTS, GUIDANCE, words).pixels, texts).mean()
        for words in ("", STYLE_WORDS)
    )
    best = score_batches(rule, decoded.render(properties.true_scenes(PROMPTS, BEST)), texts).mean()
    assert styled > plain + 0.2
    assert (best - styled) / (best - plain) > 0.35
