"""Profiles: settings of the paper, the official code, reinforcement learning, and a quick trial."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "paper": {
            "rewards.mix": "clip-cosine=100,aesthetic-v2=1,pickscore=1,hpsv2=100",
            "rewards.calibration": "",
            "schedule.guidance": 7.5,
            "optimiser.lr": 1e-6,
            "optimiser.updates": 10_000,
            "optimiser.batch": 256,
            "optimiser.clip": 0.0,
        },
        "official-code": {
            "rewards.mix": "clip-cosine=50,aesthetic-v2=3,pickscore=1,hpsv2=100",
            "rewards.calibration": "",
            "rewards.pool": 224,
            "schedule.guidance": 7.5,
            "schedule.spacing": "trailing",
            "optimiser.lr": 1e-6,
            "optimiser.updates": 10_000,
            "optimiser.batch": 32,
            "optimiser.clip": 0.0,
            "memory.checkpointing": True,
        },
        "ddpo": {
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
        "rewriter": {
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
            "optimiser.updates": 12,
            "optimiser.batch": 4,
            "optimiser.lr": 1e-4,
            "validation.every": 6,
            "validation.prompt_count": 8,
        },
    }
)
"""Named sets of settings, by dotted name."""
