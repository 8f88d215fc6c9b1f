"""Profiles: settings of the paper, the official code, reinforcement learning, and a quick trial."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "rewards.balance": False,
        "algorithm.bound_gradients": False,
        "optimiser.lr_schedule": "constant",
        "optimiser.ema": 0.0,
    }
)
"""The rewards' weighted sum, its plain gradient, a constant rate and no averaging, as in the papers."""

_PAPER: Mapping[str, Any] = MappingProxyType(
    {
        **_PLAIN,
        "rewards.calibration": "",
        "schedule.guidance": 7.5,
        "schedule.tuned_steps": 5,
        "validation.eval_tuned_steps": 15,
        "optimiser.lr": 1e-6,
        "optimiser.updates": 10_000,
        "optimiser.clip": 0.0,
    }
)
"""What the paper and the official code share."""

PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "paper": {
            **_PAPER,
            "rewards.mix": "clip-cosine=100,aesthetic-v2=1,pickscore=1,hpsv2=100",
            "optimiser.batch": 256,
        },
        "official-code": {
            **_PAPER,
            "rewards.mix": "clip-cosine=50,aesthetic-v2=3,pickscore=1,hpsv2=100",
            "rewards.pool": 224,
            "schedule.spacing": "trailing",
            "optimiser.batch": 32,
            "memory.checkpointing": True,
        },
        "ddpo": {
            **_PLAIN,
            "algorithm.name": "ddpo",
            "algorithm.policy_updates": 2,
            "schedule.steps": 50,
            "schedule.tuned_steps": 50,
            "schedule.eta": 1.0,
            "schedule.guidance": 5.0,
            "validation.eval_tuned_steps": 50,
            "trainable.lora_rank": 16,
            "optimiser.lr": 3e-4,
            "optimiser.weight_decay": 1e-4,
            "optimiser.batch": 256,
        },
        "grpo": {
            **_PLAIN,
            "algorithm.name": "grpo",
            "algorithm.policy_updates": 4,
            "algorithm.policy_steps": 30,
            "data.group": 12,
            "schedule.steps": 50,
            "schedule.tuned_steps": 50,
            "schedule.eta": 1.0,
            "validation.eval_tuned_steps": 50,
            "optimiser.lr": 1e-5,
            "optimiser.batch": 96,
        },
        "nft": {
            **_PLAIN,
            "algorithm.name": "nft",
            "algorithm.policy_updates": 1,
            "algorithm.policy_steps": 10,
            "data.group": 24,
            "schedule.steps": 25,
            "schedule.tuned_steps": 25,
            "validation.eval_tuned_steps": 25,
            "trainable.lora_rank": 32,
            "optimiser.lr": 3e-4,
            "optimiser.batch": 96,
        },
        "rewriter": {
            **_PLAIN,
            "algorithm.name": "rewriting",
            "algorithm.policy_updates": 4,
            "algorithm.ratio_clip": 0.2,
            "algorithm.drift_penalty": 0.2,
            "trainable.parts": ("rewriter",),
            "trainable.rewriter": "promptist",
            "schedule.steps": 20,
            "schedule.tuned_steps": 20,
            "validation.eval_tuned_steps": 20,
            "data.group": 4,
            "optimiser.lr": 5e-5,
            "optimiser.weight_decay": 0.0,
            "optimiser.batch": 256,
        },
        "quick": {
            "optimiser.updates": 24,
            "optimiser.batch": 8,
            "optimiser.lr": 2e-4,
            "optimiser.ema": 0.0,
            "validation.every": 12,
            "validation.prompt_count": 8,
        },
    }
)
"""Named sets of settings, by dotted name."""
