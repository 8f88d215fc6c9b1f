from __future__ import annotations

from collections.abc import Callable

import torch

from rewards.base import Reward
from rewards.models.pickscore import PickScore


def test_score_is_the_logit_of_transformers(tiny: Callable[[str], Reward]) -> None:
    reward = tiny("world-pick")
    assert isinstance(reward, PickScore)
    pixels, prompts = torch.randn(3, 3, 64, 64), ["a cat", "a long list of many words", ""]
    tokens = reward.towers.tokenizer(prompts)
    output = reward.towers.model(input_ids=tokens.ids, attention_mask=tokens.mask, pixel_values=pixels)
    torch.testing.assert_close(reward._score(pixels, prompts), output.logits_per_image.diagonal())


def test_padding_does_not_change_a_score(tiny: Callable[[str], Reward]) -> None:
    reward = tiny("world-pick")
    assert isinstance(reward, PickScore)
    model = reward.towers.model
    ids = reward.towers.tokenizer(["a cat"]).ids
    length = int((ids == ids.max()).int().argmax()) + 1
    full, cut = (model.get_text_features(input_ids=i).pooler_output for i in (ids, ids[:, :length]))
    torch.testing.assert_close(full, cut)
