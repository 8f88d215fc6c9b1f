"""Every built-in record is tested against the table of published facts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import rewards
from rewards.base import Reward
from rewards.builtin import BUILTIN
from rewards.info import RewardInfo
from rewards.models import imagereward
from rewards.verification.facts import FACTS


@pytest.mark.parametrize("name", BUILTIN)
def test_record_and_code_agree_with_the_published_facts(name: str) -> None:
    assert FACTS[name].disagreements(rewards.info(name)) == ()


def test_every_fact_is_of_a_built_in_reward() -> None:
    assert FACTS.keys() == BUILTIN.keys()
    assert all(facts.source for facts in FACTS.values())


LIMITS = [name for name in BUILTIN if FACTS[name].token_limit is not None]


@pytest.mark.parametrize("name", LIMITS)
def test_text_encoder_reads_the_published_number_of_tokens(tiny: Callable[[str], Reward], name: str) -> None:
    reward, limit = tiny(name), FACTS[name].token_limit
    assert limit is not None
    assert reward.tokenizer is not None
    assert reward.tokenizer.limit == limit
    assert reward.truncated([" ".join("a" * limit)]) == 1  # with the special tokens, one or two too many
    assert reward.truncated([" ".join("a" * (limit // 4))]) == 0


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("hpsv2", {"profile": "hps-224-antialias"}, "antialias is True, published is False"),
        ("hpsv2-antialias", {"profile": "hps-224"}, "antialias is False, published is True"),
        ("pickscore", {"profile": "clip-224"}, "crop is 'round', published is 'floor'"),
        ("siglip2", {"profile": "siglip-384"}, "kernel is 'bicubic', published is 'bilinear'"),
        ("clip-hessel", {"weights": rewards.info("clip").weights}, "weights is .*large.*published is .*base"),
        ("clip", {"options": {"convention": "cosine"}}, "options is .*cosine.*published is .*torchmetrics"),
        ("jpeg-incompressibility", {"options": {"sign": -1}}, "options is"),
        ("colourfulness", {"profile": "squash-64"}, "resize is 'squash', published is 'none'"),
        ("darkness", {"family": "colourfulness"}, "family is 'colourfulness', published is 'darkness'"),
        ("world-siglip", {"role": "trainable"}, "role is 'trainable', published is 'selection'"),
        ("vqascore", {"uses_prompt": False}, "uses_prompt is False"),
        ("aesthetic-v2.5", {"consent": ""}, "consent is '', published is 'AGPL-3.0'"),
        ("hpsv2.1", {"weights": rewards.info("hpsv2").weights}, "weights is .*HPS_v2_c.*HPS_v2.1"),
    ],
)
def test_a_changed_record_is_noticed(name: str, change: dict[str, Any], what: str) -> None:
    record: RewardInfo = replace(rewards.info(name), **change)
    texts = FACTS[name].disagreements(record)
    assert any(re.search(what, text) for text in texts), texts


def test_a_changed_constant_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        imagereward, "PUBLISHED", replace(imagereward.PUBLISHED, mean=0.1671, vision_heads=12)
    )
    texts = FACTS["imagereward"].disagreements(rewards.info("imagereward"))
    assert [text.partition(" is ")[0].rpartition(".")[2] for text in texts] == ["mean", "vision_heads"]
