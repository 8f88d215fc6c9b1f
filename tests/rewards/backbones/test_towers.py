"""Towers in half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from rewards.backbones.towers import OpenClipTowers, TransformersTowers, cosine_similarity
from rewards.base import Reward
from rewards.verification.samples import PROMPTS, blobs


def test_cosine_of_half_precision_embeddings_is_float32() -> None:
    images, texts = F.normalize(
        torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)), dim=-1
    ).bfloat16()
    cosines = cosine_similarity(images, texts)
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(
        cosines.double(), (images.double() * texts.double()).sum(dim=-1), rtol=0, atol=1e-6
    )
    assert cosine_similarity(images.double(), texts.double()).dtype == torch.float64


def test_scores_in_half_precision_do_not_tie(tiny: Callable[[str], Reward]) -> None:
    """A score of about 20 in bfloat16 would be a multiple of 1/8."""
    from copy import deepcopy

    reward = deepcopy(tiny("pickscore")).to(torch.bfloat16)
    scores = reward.score(blobs(40), [PROMPTS[0]] * 40)
    assert len(scores.unique()) == 40


LENGTHS = ["a cat", "", "a very long prompt about many things " * 20, "two dogs"]


def open_clip_towers(*, output_dict: bool = False, **text: Any) -> OpenClipTowers:
    """A tiny CLIP of open_clip; settings of the text tower make it a CustomTextCLIP."""
    sizes = {"width": 16, "heads": 2, "layers": 2, "vocab_size": 49408, "context_length": 77}
    torch.manual_seed(0)
    image = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
    config = {"embed_dim": 8, "vision_cfg": image, "text_cfg": sizes | text, "custom_text": bool(text)}
    return OpenClipTowers(config | {"output_dict": output_dict}).eval().requires_grad_(False)


def transformer_of(towers: OpenClipTowers) -> torch.nn.Module:
    module: torch.nn.Module = getattr(towers.model, "text", towers.model).transformer
    return module


def tokens_seen(towers: OpenClipTowers, prompts: list[str]) -> tuple[torch.Tensor, int]:
    """Embeddings of prompts, and how many positions the text transformer read for them."""
    seen = []
    handle = transformer_of(towers).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    embeddings = towers.embed_prompts(prompts)
    handle.remove()
    return embeddings, seen[0]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ({}, 4),
        ({"pool_type": "argmax"}, 4),
        ({"pool_type": "eos", "eos_id": 49407}, 4),
        ({"pool_type": "first"}, 1),
        ({"pool_type": "last"}, 77),  # the state of the last padding token is the embedding
        ({"no_causal_mask": True}, 77),  # every token attends to the padding
        ({"embed_cls": True, "pool_type": "last"}, 78),  # a class token behind the padding
    ],
)
def test_text_is_read_as_far_as_the_embedding_depends_on_it(text: dict[str, Any], length: int) -> None:
    towers = open_clip_towers(**text)
    embeddings, seen = tokens_seen(towers, ["a cat", "two dogs"])
    assert seen == length
    for prompts in (LENGTHS, LENGTHS[:2], ["a cat <|endoftext|> with a hat"]):
        expected = towers.model.encode_text(towers.tokenizer(prompts).ids, normalize=True)
        torch.testing.assert_close(towers.embed_prompts(prompts), expected, rtol=0, atol=1e-6)
    assert embeddings.shape == (2, 8)


@pytest.mark.parametrize("text", [{}, {"pool_type": "argmax"}])
def test_model_whose_configuration_asks_for_dictionaries_embeds_prompts(text: dict[str, Any]) -> None:
    expected = open_clip_towers(**text).embed_prompts(LENGTHS)
    torch.testing.assert_close(
        open_clip_towers(output_dict=True, **text).embed_prompts(LENGTHS), expected, rtol=0, atol=0
    )


@pytest.mark.parametrize("end", [2, 49407])
def test_transformers_text_is_cut_behind_the_pooled_token(tiny: Callable[[str], Reward], end: int) -> None:
    """Old configurations name the end token 2, and transformers then pools at the largest id."""
    from copy import deepcopy

    towers = deepcopy(next(m for m in tiny("pickscore").modules() if isinstance(m, TransformersTowers)))
    if end == 2:
        towers.model.config.text_config.eos_token_id = 2
        towers.model.text_model.eos_token_id = 2
    ids = towers.tokenizer(LENGTHS).ids
    expected = F.normalize(towers.model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    torch.testing.assert_close(towers.embed_prompts(LENGTHS), expected, rtol=0, atol=1e-6)
