"""Choosing device, precision and batch size."""

from __future__ import annotations

import json
from pathlib import Path

from tcbench.errors import UnknownName

DTYPES = ("float32", "float16", "bfloat16")


def find_device(asked: str) -> str:
    """`asked` (cpu, cuda, cuda:1, mps) if this machine has it; "auto" takes the fastest one."""
    import torch

    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = asked.partition(":")
    if kind not in ("cpu", "cuda", "mps"):
        raise UnknownName("device", asked, ("auto", "cpu", "cuda", "mps"))
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if not (index or "0").isdecimal() or int(index or 0) >= count:
        raise ValueError(
            f"device {asked} is not on this machine ({kind} devices: {count}); try --device auto"
        )
    return asked


def find_dtype(asked: str, own: str, device: str) -> str:
    """`asked`, or for "auto" the system's `own` precision on an accelerator and float32 on the CPU."""
    if asked == "auto":
        return own if device != "cpu" else "float32"
    if asked not in DTYPES:
        raise UnknownName("dtype", asked, ("auto", *DTYPES))
    return asked


def batch_size_for(pipeline: Path, size: tuple[int, int] | None, device: str) -> int:
    """A batch that a common machine holds, from the latent's size; one that does not fit is halved when
    drawn.
    """
    unet = json.loads((pipeline / "unet" / "config.json").read_text(encoding="utf-8"))
    latent = max(size) // 8 if size else int(unet["sample_size"])
    images = 16 * 64**2 // latent**2  # 16 images of 512 pixels on an accelerator, 4 of 1024
    return max(1, min(images, 64)) if device != "cpu" else max(1, min(images // 16, 16))
