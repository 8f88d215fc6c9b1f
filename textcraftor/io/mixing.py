"""Interpolate and mix tuned text encoders (Li et al. 2024, section 3.4).

The paper mixes embeddings, which happens at every step while sampling
(`textcraftor.diffusion.runner.EncoderWindow`). Mixing weights instead makes one new encoder, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tcbench.errors import ConfigError, MissingFiles
from textcraftor.diffusion.pipeline import ENCODERS
from textcraftor.diffusion.runner import ORIGINAL, EncoderWindow
from textcraftor.diffusion.weight_files import WeightFiles
from textcraftor.io.export import prefixed

if TYPE_CHECKING:
    from torch import Tensor


def parse_weights(terms: list[str], *, normalise: bool = False) -> dict[str, float]:
    """Parse ``["ckpt/tc=0.7", "original=0.3"]`` into weights by encoder.

    Args:
        terms: Encoders with their weights.
        normalise: Divide the weights by their sum.

    Raises:
        ConfigError: If a term is malformed or repeated, or if the weights do not sum to 1.
    """
    weights: dict[str, float] = {}
    for term in terms:
        name, equals, number = term.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ConfigError(f"invalid term {term!r}; expected FOLDER=WEIGHT, such as {ORIGINAL}=0.3")
        if name in weights:
            raise ConfigError(f"{name} is given twice; give each encoder one weight")
        weights[name] = weight
    total = math.fsum(weights.values())
    if normalise and total > 0 and math.isfinite(total):
        return {name: weight / total for name, weight in weights.items()}
    rest = f"add {ORIGINAL}={1 - total:g}, " if ORIGINAL not in weights and total < 1 else ""
    fix = f"{rest}change them or pass --normalise" if total > 0 else "give positive weights"
    EncoderWindow.check_sum(weights, fix)
    return weights


def average_weights(weights: Mapping[Path, float], out: Path) -> None:
    """Write text encoders whose parameters are the weighted sum of those in other folders.

    Args:
        weights: Weights by folder; each holds text_encoder/ and, for SDXL, text_encoder_2/.
        out: Folder for the new encoders, float32.

    Raises:
        ConfigError: If the weights do not sum to 1, or the encoders do not have the same architecture.
        MissingFiles: If a folder holds no weights.
    """
    import torch
    from safetensors.torch import save_file

    # raises for numbers that are not finite and for another sum than 1
    EncoderWindow({str(folder): weight for folder, weight in weights.items()})
    first = next(iter(weights))
    for name in ENCODERS:
        if not (first / name).is_dir():
            continue
        # Both key layouts are mixed: weights saved by transformers 5 lack the prefix of version 4.
        states = {folder: prefixed(_weights(folder, name)) for folder in weights}
        shapes = {folder: {k: tuple(v.shape) for k, v in state.items()} for folder, state in states.items()}
        other = next((folder for folder in weights if shapes[folder] != shapes[first]), None)
        if other is not None:
            raise ConfigError(
                f"{other / name} and {first / name} have different architectures; mix encoders of one model"
            )
        total = {
            # summed in float32: half-precision weights of the original would round the sum
            key: torch.stack([w * states[folder][key].float() for folder, w in weights.items()]).sum(dim=0)
            for key in states[first]
        }
        (out / name).mkdir(parents=True, exist_ok=True)
        config = (first / name / "config.json").read_bytes()
        (out / name / "config.json").write_bytes(config)
        save_file(total, out / name / "model.safetensors", {"format": "pt"})


def _weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the weights of a component in the variant in which a pipeline loads them."""
    from safetensors.torch import load_file

    files = WeightFiles.find(folder / name, WeightFiles.preferred(folder)).files
    if files[0].suffix != ".safetensors":
        raise MissingFiles(f"{folder / name} holds no weights in the format safetensors")
    return {key: value for file in files for key, value in load_file(file).items()}
