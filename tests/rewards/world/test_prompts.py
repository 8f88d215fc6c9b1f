"""The world's prompts: the shipped file is the generated one, and each split keeps its rules."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import get_args

import pytest

from benchmarks.suites.world import SUITE
from rewards.world.captions import STYLE_WORDS, parse_prompt
from rewards.world.prompts import CATEGORIES, PromptSplit, world_prompts

SPLITS = get_args(PromptSplit)


def test_the_shipped_file_has_the_generated_prompts() -> None:
    path = SUITE.files[0].shipped
    assert path is not None
    lines = path.read_text(encoding="utf-8").splitlines()
    generated = [asdict(prompt) for split in SPLITS for prompt in world_prompts(split)]
    assert [json.loads(line) for line in lines] == generated


def test_prompts_are_unique_across_splits() -> None:
    texts = [prompt.text for split in SPLITS for prompt in world_prompts(split)]
    assert len(texts) == len(set(texts)) == 3200


@pytest.mark.parametrize(
    ("split", "count", "reserved"), [("test", 1000, True), ("validation", 200, False), ("train", 2000, False)]
)
def test_only_test_prompts_name_reserved_combinations(split: PromptSplit, count: int, reserved: bool) -> None:
    prompts = world_prompts(split)
    assert len(prompts) == count
    assert {prompt.split for prompt in prompts} == {split}
    assert {parse_prompt(prompt.text).reserved() for prompt in prompts} == {reserved}
    shares = Counter(prompt.category for prompt in prompts)
    assert shares == {category: share * count for category, share in CATEGORIES.items()}
    assert [p.category for p in prompts[:10]] != [prompts[0].category] * 10  # categories are mixed


@pytest.mark.parametrize("split", SPLITS)
def test_prompts_claim_what_their_category_says(split: PromptSplit) -> None:
    for prompt in world_prompts(split):
        spec = parse_prompt(prompt.text)
        named = {name for name in ("size", "position") if getattr(spec.items[0], name) is not None}
        expected = {"size": {"size"}, "place": {"position"}, "full": {"size", "position"}}
        assert named == expected.get(prompt.category, set()), prompt
        assert len(spec.items) == (2 if prompt.category == "relation" else 1), prompt
        assert (spec.relation is not None) == (prompt.category == "relation"), prompt
        assert spec.background is not None
        assert all(item.colour for item in spec.items)


@pytest.mark.parametrize("split", SPLITS)
def test_no_prompt_names_a_style(split: PromptSplit) -> None:
    style = {word for kinds in STYLE_WORDS.values() for words in kinds for word in words}
    words = {word.strip(",.") for prompt in world_prompts(split) for word in prompt.text.split()}
    assert not style & words
