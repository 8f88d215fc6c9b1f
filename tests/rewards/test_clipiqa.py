"""CLIP-IQA against a straight-line computation with open_clip's own modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import rewards
from rewards.base import Reward
from rewards.preprocess import CLIP_MEAN, CLIP_STD
from rewards.tokens import OpenClipTokenizer
from rewards.verification.checkpoints import resnet_config, sizes_of, tiny_record
from rewards.weights import WrongWeights


def pooled(visual: Any, pixels: Tensor) -> Tensor:
    """CLIP's attention pooling of one picture, written out, without positions: (1, D)."""
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    tokens = features.flatten(2)[0].T  # (HW, C)
    tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens])
    pool = visual.attnpool
    heads, width = pool.num_heads, tokens.shape[1] // pool.num_heads
    query = pool.q_proj(tokens[:1]).view(heads, 1, width)
    key, value = (p(tokens).view(-1, heads, width).transpose(0, 1) for p in (pool.k_proj, pool.v_proj))
    attended = (query @ key.transpose(1, 2) / width**0.5).softmax(dim=-1) @ value
    result: Tensor = pool.c_proj(attended.reshape(1, -1))
    return result


@pytest.mark.parametrize("size", [(64, 64), (72, 100)])
def test_it_is_the_softmax_over_good_and_bad_at_any_size(
    tiny_files: Callable[[str], Mapping[str, Path]], size: tuple[int, int]
) -> None:
    folder = tiny_files("clip-iqa")["backbone"]
    reward = rewards.load(tiny_record(rewards.info("clip-iqa")), weights={"backbone": folder})
    model: Any = CLIP(**resnet_config(sizes_of(reward.info))).eval()
    model.load_state_dict(
        {k: v.float() for k, v in load_file(folder / "open_clip_model.safetensors").items()}
    )
    torch.manual_seed(0)
    image = torch.rand(1, 3, *size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        seen = F.normalize(pooled(model.visual, (image - mean) / std), dim=-1)
        read = F.normalize(model.encode_text(OpenClipTokenizer()(["Good photo.", "Bad photo."]).ids), dim=-1)
        good, bad = (model.logit_scale.exp() * seen @ read.T)[0].tolist()
    expected = 1 / (1 + torch.tensor(bad - good).exp().item())
    assert reward.score(image).item() == pytest.approx(expected, abs=1e-5)


def test_a_picture_smaller_than_the_network_reads_is_refused(tiny: Callable[[str], Reward]) -> None:
    with pytest.raises(ValueError, match="at least 32 pixels a side, got 16 x 40; enlarge"):
        tiny("clip-iqa").score(torch.rand(1, 3, 16, 40))


def test_a_clip_without_a_resnet_is_refused(tiny_files: Callable[[str], Mapping[str, Path]]) -> None:
    with pytest.raises(WrongWeights, match="is no ResNet CLIP"):
        rewards.load(
            tiny_record(rewards.info("clip-iqa")), weights={"backbone": tiny_files("clip")["backbone"]}
        )
