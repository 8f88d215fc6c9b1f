"""Setting names of earlier versions, to read old records and to name the new setting in errors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tcbench.settings import merge, rename_keys
from textcraftor.diffusion.models import Model
from textcraftor.sources import RENAMED_SOURCES

OLD_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "rewards": "rewards.mix",
        "calibration": "rewards.calibration",
        "reward_pool": "rewards.pool",
        "prompts": "data.prompts",
        "pairs": "data.pairs",
        "noises": "data.noises",
        "group": "data.group",
        "trains": "trainable.parts",
        "lora_rank": "trainable.lora_rank",
        "start": "trainable.start",
        "rewriter": "trainable.rewriter",
        "tune_null": "trainable.tune_null",
        "sampler": "schedule.sampler",
        "steps": "schedule.steps",
        "tuned_steps": "schedule.tuned_steps",
        "guidance": "schedule.guidance",
        "size": "schedule.size",
        "spacing": "schedule.spacing",
        "eta": "schedule.eta",
        "updates": "optimiser.updates",
        "batch": "optimiser.batch",
        "lr": "optimiser.lr",
        "lr_schedule": "optimiser.lr_schedule",
        "warmup": "optimiser.warmup",
        "weight_decay": "optimiser.weight_decay",
        "clip": "optimiser.clip",
        "ema": "optimiser.ema",
        "estimator": "algorithm.name",
        "drift_penalty": "algorithm.drift_penalty",
        "policy_updates": "algorithm.policy_updates",
        "ratio_clip": "algorithm.ratio_clip",
        "validation": "validation.prompts",
        "validation_prompts": "validation.prompt_count",
        "validate_every": "validation.every",
        "selection": "validation.selection_reward",
        "stop_on_alarm": "validation.stop_on_alarm",
        "drawn_tuned_steps": "validation.eval_tuned_steps",
        "micro_batch": "memory.micro_batch",
        "precision": "memory.precision",
        "checkpointing": "memory.checkpointing",
        "decode_slice": "memory.decode_slice",
        "compile": "memory.compile",
        "offload": "memory.offload",
        "prefix_cache": "memory.prefix_cache",
        "prefix_gigabytes": "memory.prefix_gigabytes",
        "method": "logging.method",
        "save_every": "logging.save_every",
        "keep": "logging.keep",
        "trackers": "logging.trackers",
    }
)
"""Flat names of earlier versions and the names that replaced them: for records, and for errors."""


def current_layout(record: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the configuration of an earlier version's record into the groups of this one."""
    values = flatten_settings(rename_keys(record, OLD_NAMES))
    for name in ("data.prompts", "validation.prompts"):
        if name in values:
            values[name] = RENAMED_SOURCES.get(values[name], values[name])
    if values.get("schedule.guidance", 0.0) is None:  # "the model's own"
        values["schedule.guidance"] = Model.find(record["model"]).guidance
    return nest_settings(values)


def flatten_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted names."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten_settings(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def nest_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with dotted names as nested mappings."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        for key in reversed(name.split(".")):
            value = {key: value}
        nested = merge(nested, value)
    return nested
