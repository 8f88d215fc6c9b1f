from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from rewards.backbones.tokens import bert_tokenizer
from rewards.base import Reward
from rewards.models.imagereward import PUBLISHED, ImageReward
from rewards.verification.samples import blobs


def test_score_is_the_standardised_raw_reward(tiny: Callable[[str], Reward]) -> None:
    reward = tiny("world-blip")
    assert isinstance(reward, ImageReward)
    pixels, prompts = torch.randn(2, 3, 64, 64), ["a cat", "a dog and a cat"]
    assert reward.tokenizer is not None
    tokens = reward.tokenizer(prompts)
    raw = reward.ranker(pixels, tokens.ids, tokens.mask)
    torch.testing.assert_close(reward._score(pixels, prompts), (raw - 0.2) / 0.5)


def test_prompts_are_cut_to_35_tokens_and_counted(shared_data: Path) -> None:
    tokenizer = bert_tokenizer(shared_data / "vocab/bert_base_uncased_vocab.txt", PUBLISHED.max_tokens)
    ids, mask = tokenizer(["A red Circle, naïve", " ".join(["cat"] * 40)])
    assert ids.shape == (2, 35)
    # [CLS] a red circle , naive [SEP]: the ids of bert-base-uncased
    assert ids[0, :8].tolist() == [101, 1037, 2417, 4418, 1010, 15743, 102, 0]
    assert mask.sum(dim=1).tolist() == [7, 35]
    assert ids[1, -1] == 102
    assert tokenizer.lengths(["cat " * 33, "cat " * 34]) == [35, 36]


@pytest.mark.parametrize("name", ["imagereward", "world-blip"])
def test_truncated_prompts_are_counted(tiny: Callable[[str], Reward], name: str) -> None:
    prompts = ["a " * 33, "a " * 34]
    assert tiny(name).truncated(prompts) == 1
    scores = tiny(name).score(torch.full((2, 3, 64, 64), 0.5), prompts)
    assert scores[0] == pytest.approx(scores[1].item(), abs=1e-6)


def test_a_score_in_half_precision_does_not_depend_on_the_length_of_other_prompts(
    tiny: Callable[[str], Reward],
) -> None:
    reward, prompts = deepcopy(tiny("imagereward")).bfloat16(), ["a", "red circle", "a star left of a square"]
    images = blobs(3)
    alone = torch.cat([reward.score([image], [text]) for image, text in zip(images, prompts, strict=True)])
    assert torch.equal(reward.score(images, prompts), alone)
