"""What is known of the reward before it is loaded. Free of torch, so that listing it is fast."""

from __future__ import annotations

from rewards import RewardInfo

WARMTH = RewardInfo(
    name="warmth",
    entry="tcbench_warmth.reward:Warmth",
    uses_prompt=False,
    scale="red minus blue, the mean over the picture",
    typical_range=(-0.5, 0.5),
    licence="MIT",
)
