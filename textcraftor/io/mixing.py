"""Interpolating and mixing tuned text encoders (Li et al. 2024, section 3.4).

In embedding space, as the paper does it, the mix is a window of a system's steps and is made while drawing
(`textcraftor.diffusion.runner.Window`). In weight space it is one encoder more, made once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tcbench.errors import ConfigError
from textcraftor.diffusion.pipeline import ENCODERS
from textcraftor.diffusion.runner import ORIGINAL
from textcraftor.io.export import prefixed


def parse_weights(terms: list[str]) -> dict[str, float]:
    """``ckpt/tc=0.7 original=0.3``: encoders and weights. Raises ConfigError for what is no such term."""
    found: dict[str, float] = {}
    for term in terms:
        name, equals, weight = term.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ConfigError(f"{term!r} is no share of a mix; write FOLDER=0.7, or {ORIGINAL}=0.3")
        if name in found:
            raise ConfigError(f"the mix names {name} twice; give it one weight")
        found[name] = value
    if not any(found.values()):
        raise ConfigError(f"a mix needs a weight that is not 0, such as ckpt/tc=0.7 {ORIGINAL}=0.3")
    return found


def average_weights(weights: Mapping[Path, float], out: Path) -> None:
    """Write text encoders whose every weight is the weighted sum of those in the folders (text_encoder/ ...).

    Raises ConfigError for encoders that are not of one architecture.
    """
    import torch
    from safetensors.torch import load_file, save_file

    first = next(iter(weights))
    for name in ENCODERS:
        if not (first / name).is_dir():
            continue
        states = {folder: prefixed(load_file(_file(folder / name))) for folder in weights}
        shapes = {folder: {k: tuple(v.shape) for k, v in state.items()} for folder, state in states.items()}
        other = next((folder for folder in weights if shapes[folder] != shapes[first]), None)
        if other is not None:
            raise ConfigError(
                f"{other / name} and {first / name} are of different architectures: mix alike ones"
            )
        total = {
            key: torch.stack([w * states[folder][key].float() for folder, w in weights.items()]).sum(dim=0)
            for key in states[first]
        }
        (out / name).mkdir(parents=True, exist_ok=True)
        config = (first / name / "config.json").read_bytes()
        (out / name / "config.json").write_bytes(config)
        save_file(total, out / name / "model.safetensors", {"format": "pt"})


def _file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no weights (*.safetensors)")
    return next((file for file in files if ".fp16" not in file.name), files[0])
