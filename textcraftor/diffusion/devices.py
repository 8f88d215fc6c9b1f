"""Choose the device, the precision and the batch size."""

from __future__ import annotations

import json
from pathlib import Path

from tcbench.errors import ConfigError, UnknownName

DTYPES = ("float32", "float16", "bfloat16")
"""Precisions of a pipeline's models."""

_SYNONYMS = {
    "gpu": "cuda", "nvidia": "cuda", "amd": "cuda", "rocm": "cuda", "hip": "cuda", "apple": "mps",
    "metal": "mps",
}  # fmt: skip
"""Kinds of devices by what they are called elsewhere."""


def find_device(name: str) -> str:
    """Return the device to use.

    Args:
        name: cpu, cuda, cuda:1, mps, or "auto" for the fastest one of this machine.

    Raises:
        UnknownName: For any other name.
        ConfigError: If this machine does not have the device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps"):
        meant = _SYNONYMS.get(kind.casefold())
        synonyms = {name.casefold(): f"{meant}:{index}" if index else meant} if meant else {}
        raise UnknownName("device", name, ("auto", "cpu", "cuda", "mps"), synonyms=synonyms)
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if not (index or "0").isdecimal() or int(index or 0) >= count:
        raise ConfigError(
            f"device {name} not found on this machine ({kind} devices: {count}); use --device auto"
        )
    return name


def find_dtype(name: str, default: str, device: str) -> str:
    """Return the precision to use.

    Args:
        name: A name in `DTYPES`; "auto": ``default`` on an accelerator, float32 on the CPU.
        default: The system's own precision.
        device: The device, from `find_device`.

    Raises:
        UnknownName: For any other name.
    """
    if name == "auto":
        return default if device != "cpu" else "float32"
    if name not in DTYPES:
        raise UnknownName("dtype", name, ("auto", *DTYPES))
    return name


def batch_size_for(pipeline: Path, size: tuple[int, int] | None, device: str) -> int:
    """Return a batch size that fits on common machines.

    It is a guess from the size of the latent; a batch that does not fit in memory is halved while sampling.

    Args:
        pipeline: Folder of the pipeline.
        size: (height, width) in pixels; None: the pipeline's own.
        device: The device, from `find_device`.
    """
    unet = json.loads((pipeline / "unet" / "config.json").read_text(encoding="utf-8"))
    latent = max(size) // 8 if size else int(unet["sample_size"])
    images = 16 * 64**2 // latent**2  # on an accelerator: 16 images of 512 pixels, 4 of 1024
    return max(1, min(images, 64)) if device != "cpu" else max(1, min(images // 16, 16))
