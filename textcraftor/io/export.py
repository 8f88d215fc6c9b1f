"""Write tuned weights for diffusers, transformers, PEFT, ComfyUI and Forge."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tcbench.errors import ConfigError
from textcraftor.diffusion.pipeline import ENCODERS, INDEX, UNUSED_COMPONENTS, Source

ADAPTERS = "pytorch_lora_weights.safetensors"
"""The file name that diffusers' `load_lora_weights` looks for."""

_PREFIX = "text_model."

_ADAPTER_KEY = re.compile(
    r"(text_encoder|text_encoder_2|unet)\.(.+)\.lora(?:_linear_layer)?\.(down|up)\.weight"
)
"""Key of an adapter in diffusers' layout: component, layer and matrix."""


def save_text_encoder(model: Any, folder: Path, *, half: bool = False) -> None:
    """Write a text encoder's folder that transformers 4 and 5 both read.

    Args:
        model: A transformers CLIP text model.
        folder: Folder to write.
        half: Store the weights in half precision.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # float32 whatever is stored: a loader that follows the recorded type must not compute in half precision
    model.config.dtype = "float32"
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["torch_dtype"] = "float32"  # transformers 4's name for the same entry
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = {
        key: (value.half() if half else value.float()).contiguous()
        for key, value in prefixed(model.state_dict()).items()
    }
    # Saved here and not by `save_pretrained`: transformers 5 drops the prefix of the keys when it saves, and
    # transformers 4 loads such a file with every weight random, with only a log message.
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def prefixed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text encoder's weights under the keys of transformers 4, from a state dict of version 4 or 5.

    Position ids are left out: they are a constant that only old versions store.
    """
    return {
        key if key.startswith((_PREFIX, "text_projection.")) else _PREFIX + key: value
        for key, value in state.items()
        if not key.endswith("position_ids")
    }


def save_unet(model: Any, folder: Path) -> None:
    """Write a UNet's folder that diffusers reads."""
    model.save_pretrained(folder)
    forget_origin(folder / "config.json")


def forget_origin(path: Path) -> None:
    """Remove the local path that diffusers records in a configuration; it is private."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_adapters(pipe: Any, adapters: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write adapters for ``pipe.load_lora_weights(folder)``.

    Args:
        pipe: The pipeline of the base model.
        adapters: State dicts of PEFT adapters, by component name.
        folder: Folder to write.
    """
    from diffusers.utils import convert_state_dict_to_diffusers

    layers = {
        # prefixed, as transformers 4 and ComfyUI name a text encoder's layers; current diffusers reads both
        f"{name}_lora_layers": convert_state_dict_to_diffusers(
            prefixed(state) if name in ENCODERS else dict(state)
        )
        for name, state in adapters.items()
    }
    type(pipe).save_lora_weights(folder, **layers, weight_name=ADAPTERS)


def export_encoder(tuned: Path, out: Path, file_format: str, source: Source) -> None:
    """Write tuned components for other tools.

    Args:
        tuned: Folder of the tuned components.
        out: New folder.
        file_format: "diffusers": the whole pipeline; "lora": the adapters alone; "kohya": the adapters under
            the keys of kohya's trainer, which AUTOMATIC1111, Forge and ComfyUI read; "single-file": each text
            encoder as one half-precision file with the keys that ComfyUI and Forge expect.
        source: Pipeline of the base model; only "diffusers" reads it.

    Raises:
        ConfigError: If ``out`` is not empty, or there are no adapters to export.
        MissingFiles: If the base pipeline is needed and not on this machine.
    """
    if file_format == "diffusers":
        _export_diffusers(source, tuned, out)
    elif file_format in ("lora", "kohya"):
        _export_adapters(tuned, out, kohya=file_format == "kohya")
    else:
        _export_single_file(tuned, out)


def _export_diffusers(source: Source, tuned: Path, out: Path) -> None:
    """Write the whole pipeline with its tuned components."""
    _check_new(out)
    tuned_parts = _parts(tuned)
    source.copy(out, leave_out=tuned_parts)
    for name in tuned_parts:
        shutil.copytree(tuned / name, out / name)
    _remove_components(out / INDEX, UNUSED_COMPONENTS)


def _export_adapters(tuned: Path, out: Path, *, kohya: bool) -> None:
    """Write the adapters alone, in diffusers' layout or in that of kohya's trainer."""
    from safetensors.torch import load_file, save_file

    if not (tuned / ADAPTERS).is_file():
        raise ConfigError(
            f"{tuned} holds no adapters of the base model (trainable.lora_rank = 0, or trained from a "
            "checkpoint); use --to diffusers"
        )
    _check_new(out)
    out.mkdir(parents=True)
    weights = _with_prefixes(load_file(tuned / ADAPTERS))
    if kohya:
        weights = _kohya(weights, two_encoders=(tuned / ENCODERS[1]).is_dir())
    save_file(weights, out / (f"{out.name}.safetensors" if kohya else ADAPTERS), {"format": "pt"})


def _with_prefixes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return adapters in diffusers' layout under the keys of transformers 4, also of earlier versions."""
    result = {}
    for key, value in weights.items():
        component, _, rest = key.partition(".")
        result[f"{component}.{next(iter(prefixed({rest: 0})))}" if component in ENCODERS else key] = value
    return result


def _kohya(weights: Mapping[str, Any], *, two_encoders: bool) -> dict[str, Any]:
    """Return adapters under the keys of kohya's trainer, from diffusers' layout.

    Args:
        weights: Adapters in diffusers' layout.
        two_encoders: Whether the base model has two text encoders, which changes the first one's name.
    """
    import torch

    names = {
        "text_encoder": "lora_te1" if two_encoders else "lora_te",
        "text_encoder_2": "lora_te2",
        "unet": "lora_unet",
    }
    result = {}
    for key, value in weights.items():
        match = _ADAPTER_KEY.fullmatch(key)
        assert match is not None, key  # `save_adapters` writes no other keys
        component, layer, matrix = match.groups()
        layer = f"{names[component]}_{layer.replace('.', '_')}"
        result[f"{layer}.lora_{matrix}.weight"] = value
        if matrix == "down":
            # the scale of an adapter is alpha / rank, which is 1 here
            result[f"{layer}.alpha"] = torch.tensor(float(len(value)))
    return result


def _export_single_file(tuned: Path, out: Path) -> None:
    """Write each text encoder as one half-precision file with the keys that ComfyUI and Forge expect."""
    from safetensors.torch import load_file, save_file

    _check_new(out)
    out.mkdir(parents=True)
    for name in _parts(tuned):
        if name in ENCODERS:
            weights = load_file(tuned / name / "model.safetensors")
            save_file(
                {key: value.half() for key, value in weights.items()},
                out / f"{name}.safetensors",
                {"format": "pt"},
            )


def _remove_components(index: Path, names: Iterable[str]) -> None:
    """Mark components as absent in a pipeline's index."""
    entries = json.loads(index.read_text(encoding="utf-8"))
    entries |= {name: [None, None] for name in names if name in entries}
    if "requires_safety_checker" in entries:
        entries["requires_safety_checker"] = False
    index.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _parts(tuned: Path) -> list[str]:
    return [name for name in (*ENCODERS, "unet") if (tuned / name).is_dir()]


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already; choose another --out")
    if out.is_dir():
        out.rmdir()
