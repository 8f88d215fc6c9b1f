"""The environment that results were made in: recorded and compared, never hashed into an id."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tcbench.environment import commit, installed_version

LIBRARIES = (
    "tcbench", "torch", "torchvision", "diffusers", "transformers", "open_clip_torch",
    "accelerate", "safetensors", "huggingface_hub", "numpy", "pillow",
)  # fmt: skip

COMPARED = ("device", "threads")
"""Entries of an environment that are compared beside the versions."""


def versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on, without importing any."""
    return {name: found for name in LIBRARIES if (found := installed_version(name))}


def environment(device: str) -> dict[str, Any]:
    """One provenance entry of a run header."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }


def differences(history: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> list[str]:
    """How the environments that worked on a run differ from this one, one phrase each."""
    return sorted({phrase for then in history for phrase in _differences(then, here)})


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    pairs = {key: (then.get(key), now.get(key)) for key in COMPARED}
    old, new = then["versions"], now["versions"]
    pairs |= {name: (old.get(name), new.get(name)) for name in sorted({*old, *new})}
    for name, (was, is_now) in pairs.items():
        if was != is_now:
            yield f"{name} {was}, now {is_now}"
