"""Towers in half precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from rewards.backbones.towers import cosine_similarity
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
