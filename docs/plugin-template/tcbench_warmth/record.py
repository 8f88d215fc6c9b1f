"""Record of the reward. It does not import torch, so that listing rewards stays fast."""

from __future__ import annotations

from rewards import RewardInfo

WARMTH = RewardInfo(
    name="warmth",
    entry="tcbench_warmth.reward:Warmth",
    uses_prompt=False,
    scale="red minus blue, mean over the image",
    typical_range=(-0.5, 0.5),
    licence="MIT",
)
