from __future__ import annotations

from collections.abc import Callable

import torch

from rewards.base import Reward
from rewards.siglip import SiglipScore


def test_the_score_is_transformers_own_logit_of_each_pair(tiny: Callable[[str], Reward]) -> None:
    reward = tiny("world-siglip")
    assert isinstance(reward, SiglipScore)
    pixels, prompts = torch.randn(3, 3, 64, 64), ["a cat", "a long list of many words", ""]
    ids = reward.towers.tokenizer(prompts).ids
    output = reward.towers.model(input_ids=ids, pixel_values=pixels)
    torch.testing.assert_close(reward._score(pixels, prompts), output.logits_per_image.diagonal())
