"""Write tuned weights for diffusers, transformers, PEFT, ComfyUI and Forge."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tcbench.errors import ConfigError
from tcbench.files import check_writable, new_folder
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
    _clean_config(folder, torch_dtype="float32")  # transformers 4's name for the same entry
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
    return {_prefixed_key(key): value for key, value in state.items() if not key.endswith("position_ids")}


def _prefixed_key(key: str) -> str:
    return key if key.startswith((_PREFIX, "text_projection.")) else _PREFIX + key


def save_component(model: Any, folder: Path) -> None:
    """Write the folder of a UNet or VAE that diffusers reads, without the local path it was loaded from."""
    model.save_pretrained(folder)
    _clean_config(folder)


def _clean_config(folder: Path, **changes: str) -> None:
    """Set entries of a configuration, and remove the local path that diffusers records; it is private."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
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


def export_encoder(
    tuned: Path,
    out: Path,
    file_format: str,
    source: Source,
    *,
    replaced: Mapping[str, Path] = MappingProxyType({}),
    describe: Callable[[Path], None] | None = None,
) -> None:
    """Write tuned components for other tools. An export that is interrupted leaves nothing.

    Args:
        tuned: Folder of the tuned components.
        out: New folder.
        file_format: "diffusers": the whole pipeline; "lora": the adapters alone; "kohya": the adapters under
            the keys of kohya's trainer, which AUTOMATIC1111, Forge and ComfyUI read; "single-file": each text
            encoder as one half-precision file with the keys that ComfyUI and Forge expect.
        source: Pipeline of the base model; only "diffusers" reads it.
        replaced: Folders of other components that replace the pipeline's own, by component name.
        describe: Adds further files to the folder, which has a temporary name then.

    Raises:
        ConfigError: If ``out`` is not empty or cannot be written, or there are no adapters to export.
        MissingFiles: If the base pipeline is needed and not on this machine.
    """
    check_writable(out, new=True)
    with new_folder(out) as folder:
        if file_format == "diffusers":
            _export_diffusers(source, {name: tuned / name for name in _parts(tuned)} | dict(replaced), folder)
        elif file_format == "kohya":
            _export_adapters(tuned, folder / f"{out.name}.safetensors", kohya=True)
        elif file_format == "lora":
            _export_adapters(tuned, folder / ADAPTERS, kohya=False)
        else:
            _export_single_file(tuned, folder)
        if describe is not None:
            describe(folder)


def _export_diffusers(source: Source, components: Mapping[str, Path], folder: Path) -> None:
    """Write the whole pipeline with ``components`` in place of its own."""
    source.copy(folder, leave_out=components)
    for name, component in components.items():
        shutil.copytree(component, folder / name)
    _remove_components(folder / INDEX, UNUSED_COMPONENTS)


def _export_adapters(tuned: Path, file: Path, *, kohya: bool) -> None:
    """Write the adapters alone, in diffusers' layout or in that of kohya's trainer."""
    from safetensors.torch import load_file, save_file

    if not (tuned / ADAPTERS).is_file():
        raise ConfigError(
            f"{tuned} holds no adapters of the base model (trainable.lora_rank = 0, or trained from a "
            "checkpoint); use --to diffusers"
        )
    weights = _with_prefixes(load_file(tuned / ADAPTERS))
    if kohya:
        weights = _kohya(weights, two_encoders=(tuned / ENCODERS[1]).is_dir())
    save_file(weights, file, {"format": "pt"})


def _with_prefixes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return adapters in diffusers' layout under the keys of transformers 4, also of earlier versions."""
    result = {}
    for key, value in weights.items():
        component, _, rest = key.partition(".")
        result[f"{component}.{_prefixed_key(rest)}" if component in ENCODERS else key] = value
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


def _export_single_file(tuned: Path, folder: Path) -> None:
    """Write each text encoder as one half-precision file with the keys that ComfyUI and Forge expect."""
    from safetensors.torch import load_file, save_file

    for name in _parts(tuned):
        if name in ENCODERS:
            weights = load_file(tuned / name / "model.safetensors")
            save_file(
                {key: value.half() for key, value in weights.items()},
                folder / f"{name}.safetensors",
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
