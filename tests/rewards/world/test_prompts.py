"""The world's prompts: the shipped file is the generated one, and each split keeps its rules."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import get_args

import pytest

from benchmarks.suites.world import SUITE
from rewards.world.captions import STYLE_WORDS, parse_prompt
from rewards.world.prompts import CATEGORIES, PromptSplit, WorldPrompt, world_prompts

SPLITS = get_args(PromptSplit)


@pytest.fixture(scope="module")
def prompts() -> dict[PromptSplit, list[WorldPrompt]]:
    """The prompts of each split."""
    return {split: world_prompts(split) for split in SPLITS}


def test_a_split_is_the_same_each_time(prompts: dict[PromptSplit, list[WorldPrompt]]) -> None:
    assert world_prompts("validation") == prompts["validation"]


def test_the_shipped_file_has_the_generated_prompts(prompts: dict[PromptSplit, list[WorldPrompt]]) -> None:
    path = SUITE.files[0].shipped
    assert path is not None
    lines = path.read_text(encoding="utf-8").splitlines()
    generated = [asdict(prompt) for split in SPLITS for prompt in prompts[split]]
    assert [json.loads(line) for line in lines] == generated


def test_prompts_are_unique_across_splits(prompts: dict[PromptSplit, list[WorldPrompt]]) -> None:
    texts = [prompt.text for split in SPLITS for prompt in prompts[split]]
    assert len(texts) == len(set(texts)) == 5200


@pytest.mark.parametrize(
    ("split", "count", "reserved"),
    [
        ("test", 1000, True),
        ("sealed", 1000, True),
        ("third", 1000, True),
        ("validation", 200, False),
        ("train", 2000, False),
    ],
)
def test_only_prompts_of_held_out_splits_name_reserved_combinations(
    split: PromptSplit, count: int, reserved: bool, prompts: dict[PromptSplit, list[WorldPrompt]]
) -> None:
    of_split = prompts[split]
    assert len(of_split) == count
    assert {prompt.split for prompt in of_split} == {split}
    assert {parse_prompt(prompt.text).reserved() for prompt in of_split} == {reserved}
    shares = Counter(prompt.category for prompt in of_split)
    assert shares == {category: share * count for category, share in CATEGORIES.items()}
    assert len({prompt.category for prompt in of_split[:20]}) > 2  # categories are mixed


@pytest.mark.parametrize("split", SPLITS)
def test_prompts_claim_what_their_category_says(
    split: PromptSplit, prompts: dict[PromptSplit, list[WorldPrompt]]
) -> None:
    expected = {"place": {"position"}, "full": {"size", "position"}, "sizes": {"size"}}
    for prompt in prompts[split]:
        spec = parse_prompt(prompt.text)
        for item in spec.items:
            named = {name for name in ("size", "position") if getattr(item, name) is not None}
            assert named == expected.get(prompt.category, set()), prompt
            assert item.colour
        pair = prompt.category in ("relation", "sizes")
        assert len(spec.items) == (2 if pair else 1), prompt
        assert (spec.relation is not None) == pair, prompt
        assert spec.background is not None


def test_no_prompt_names_a_style(prompts: dict[PromptSplit, list[WorldPrompt]]) -> None:
    style = {word for kinds in STYLE_WORDS.values() for words in kinds for word in words}
    texts = [prompt.text for split in SPLITS for prompt in prompts[split]]
    assert not style & {word.strip(",.") for text in texts for word in text.split()}
