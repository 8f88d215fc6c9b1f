"""Tuned weights as other people's tools read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tcbench.errors import ConfigError
from textcraftor.diffusion.pipeline import ENCODERS, INDEX, NOT_DRAWING, pipeline_files

ADAPTERS = "pytorch_lora_weights.safetensors"
"""The name under which diffusers' `load_lora_weights` looks for adapters."""

PREFIX = "text_model."


def save_text_encoder(model: Any, folder: Path, *, half: bool = False) -> None:
    """A text encoder's folder that transformers 4 and 5 both read.

    The keys carry the prefix ``text_model.``: version 5 drops it when it saves, and version 4 then loads
    such a folder with every weight random. The recorded type is float32, so that no loader leaves weights
    that are stored in ``half`` precision so.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = "float32"
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["torch_dtype"] = "float32"  # the name transformers 4 knows it by
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = {
        key: (value.half() if half else value.float()).contiguous()
        for key, value in prefixed(model.state_dict()).items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def prefixed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A text encoder's weights under the keys of transformers 4, of a state dict of either version."""
    return {
        key if key.startswith((PREFIX, "text_projection.")) else PREFIX + key: value
        for key, value in state.items()
        if not key.endswith("position_ids")
    }


def save_unet(model: Any, folder: Path) -> None:
    """A UNet's folder that diffusers reads."""
    model.save_pretrained(folder)
    forget_origin(folder / "config.json")


def forget_origin(path: Path) -> None:
    """Drop where on this machine a model was loaded from, which diffusers notes: nobody else has it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_adapters(pipe: Any, adapters: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Adapters by component as one file of diffusers' layout, for ``pipe.load_lora_weights(folder)``."""
    from diffusers.utils import convert_state_dict_to_diffusers

    layers = {
        f"{name}_lora_layers": convert_state_dict_to_diffusers(dict(state))
        for name, state in adapters.items()
    }
    type(pipe).save_lora_weights(folder, **layers, weight_name=ADAPTERS)


def export_diffusers(base: Path, tuned: Path, out: Path) -> None:
    """The whole pipeline of ``base`` with the tuned parts of ``tuned`` in place of its own, in ``out``."""
    _refuse(out)
    for file in pipeline_files(base):
        place = out / str(file.relative_to(base)).replace(".fp16", "")  # else it would want variant="fp16"
        if file.relative_to(base).parts[0] not in _parts(tuned):
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.name.endswith(".index.fp16.json"):
                place.write_text(file.read_text(encoding="utf-8").replace(".fp16", ""), encoding="utf-8")
            else:
                shutil.copyfile(file, place)  # the content: a hub cache holds links
    for name in _parts(tuned):
        shutil.copytree(tuned / name, out / name)
    _leave_out(out / INDEX, NOT_DRAWING)


def export_adapters(tuned: Path, out: Path) -> None:
    """The adapters of ``tuned`` alone. Raises ConfigError if all weights were trained."""
    if not (tuned / ADAPTERS).is_file():
        raise ConfigError(
            f"{tuned} holds no adapters of the base model (lora_rank = 0, or a start): take --to diffusers"
        )
    _refuse(out)
    out.mkdir(parents=True)
    shutil.copyfile(tuned / ADAPTERS, out / ADAPTERS)


def export_single_file(tuned: Path, out: Path) -> None:
    """Each text encoder as one half-precision file with the keys that ComfyUI's and Forge's loaders know."""
    from safetensors.torch import load_file, save_file

    _refuse(out)
    out.mkdir(parents=True)
    for name in _parts(tuned):
        if name in ENCODERS:
            weights = load_file(tuned / name / "model.safetensors")
            save_file(
                {key: value.half() for key, value in weights.items()},
                out / f"{name}.safetensors",
                {"format": "pt"},
            )


def _leave_out(index: Path, names: Iterable[str]) -> None:
    """Say in a pipeline's index that it has none of these components."""
    entries = json.loads(index.read_text(encoding="utf-8"))
    entries |= {name: [None, None] for name in names if name in entries}
    if "requires_safety_checker" in entries:
        entries["requires_safety_checker"] = False
    index.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _parts(tuned: Path) -> list[str]:
    return [name for name in (*ENCODERS, "unet") if (tuned / name).is_dir()]


def _refuse(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already: choose another --out")
    if out.is_dir():
        out.rmdir()
