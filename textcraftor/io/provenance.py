"""The environment of a result: recorded and compared, never hashed into an id."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tcbench.environment import commit, installed_version

LIBRARIES = (
    "tcbench", "torch", "torchvision", "diffusers", "transformers", "open_clip_torch",
    "accelerate", "safetensors", "huggingface_hub", "numpy", "pillow",
)  # fmt: skip

_COMPARED = ("device", "threads")
"""Entries of an environment that are compared, in addition to the versions."""


def _versions() -> dict[str, str]:
    """Return the installed versions of the libraries that results depend on, without importing them."""
    return {name: installed for name in LIBRARIES if (installed := installed_version(name))}


def environment(device: str) -> dict[str, Any]:
    """Return the environment of this process, as a run header records it."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    return {
        "versions": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }


def environment_differences(history: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> list[str]:
    """Return how the environments of earlier starts differ from this one, one phrase each."""
    return sorted({phrase for before in history for phrase in _differences(before, now)})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    pairs = {key: (before.get(key), now.get(key)) for key in _COMPARED}
    old, new = before["versions"], now["versions"]
    pairs |= {name: (old.get(name), new.get(name)) for name in sorted({*old, *new})}
    for name, (was, is_now) in pairs.items():
        if was != is_now:
            yield f"{name} {was}, now {is_now}"
