"""Load diffusers pipelines, and models that replace their components."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tcbench.errors import MissingFiles, first_line
from tcbench.quiet import quiet
from textcraftor.diffusion.pipeline import ENCODERS, LIBRARIES, PipelineIndex
from textcraftor.diffusion.schedule import SAMPLERS
from textcraftor.diffusion.weight_files import WeightFiles

_ENCODER_SIZES = ("hidden_size", "vocab_size", "max_position_embeddings")
"""Configuration values that must be equal for one text encoder to replace another in all steps."""

_MIXED_SIZES = (*_ENCODER_SIZES, "num_hidden_layers")
"""The same to mix their embeddings, which are layer by layer trained alike."""

_ENCODER_SHAPE = (*_MIXED_SIZES, "intermediate_size", "num_attention_heads", "hidden_act")
"""The same to be the same function of weights."""

_UNET_SHAPE = (
    "block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim", "in_channels",
    "down_block_types", "up_block_types", "transformer_layers_per_block",
)  # fmt: skip
"""Configuration values that must be equal for two UNets to be the same function of weights."""


def load_pipeline(
    folder: Path,
    *,
    device: str,
    dtype: str,
    sampler: str,
    spacing: str = "",
    replaced: Mapping[str, Path] = MappingProxyType({}),
    lora: Mapping[Path, float] = MappingProxyType({}),
) -> Any:
    """Load a diffusers pipeline in eval mode.

    Args:
        folder: A diffusers folder.
        device: Device of its models.
        dtype: Precision of its models.
        sampler: Name of its sampler, in `SAMPLERS`.
        spacing: Spacing of timesteps; "": the pipeline's own.
        replaced: Folders of models that replace components, by component name.
        lora: Scales of adapters by file; they are merged into the text encoders and the UNet.

    Raises:
        MissingFiles: If a file lacks weights that its model needs.
    """
    import diffusers
    from diffusers import DiffusionPipeline

    index, preferred = PipelineIndex.read(folder), WeightFiles.preferred(folder)
    unused = [name for name in ("safety_checker", "feature_extractor") if name in index.entries]
    parts: dict[str, Any] = dict.fromkeys(unused)
    if "safety_checker" in unused:
        parts["requires_safety_checker"] = False  # otherwise diffusers warns about its absence
    for name in index.models:
        path = replaced.get(name, folder / name)
        parts[name] = _load_component(index.entries[name], path, dtype, "" if name in replaced else preferred)
        if name in ENCODERS and name in replaced:
            own = type(parts[name].config).from_pretrained(folder / name)
            _check_architecture(path, parts[name].config, own, _ENCODER_SIZES)
    with quiet(*LIBRARIES):
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **parts)
    # The noise schedule (betas, prediction type) stays that of the pipeline's own scheduler.
    pipe.scheduler = getattr(diffusers, SAMPLERS[sampler]).from_config(
        pipe.scheduler.config, **({"timestep_spacing": spacing} if spacing else {})
    )
    pipe.set_progress_bar_config(disable=True)
    if lora:
        _merge_adapters(pipe, lora)
    return pipe.to(device)


def _merge_adapters(pipe: Any, lora: Mapping[Path, float]) -> None:
    """Add adapters to the weights of a pipeline.

    Raises:
        MissingFiles: If not all layers of a file fit the pipeline. diffusers only logs that.
    """
    from peft.tuners.lora import LoraLayer

    names = [f"adapters_{number}" for number in range(len(lora))]
    modules = [getattr(pipe, name, None) for name in (*ENCODERS, "unet")]
    for name, file in zip(names, lora, strict=True):
        try:
            with quiet(*LIBRARIES):
                pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
        except (KeyError, RuntimeError, ValueError) as error:
            raise MissingFiles(f"{file} does not fit the pipeline: {first_line(error)}") from error
        layers = [layer for module in modules if module is not None for layer in module.modules()]
        fitting = sum(isinstance(layer, LoraLayer) and name in layer.lora_A for layer in layers)
        if fitting < WeightFiles.adapters(file):
            raise MissingFiles(
                f"{file} changes {WeightFiles.adapters(file)} layers, of which the pipeline has {fitting}; "
                "give adapters of the same base model"
            )
    pipe.set_adapters(names, list(lora.values()))
    pipe.fuse_lora(components=list(pipe._lora_loadable_modules), adapter_names=names)
    pipe.unload_lora_weights()


def _load_component(kind: Sequence[str], folder: Path, dtype: str, preferred: str | None) -> Any:
    """Load one model of a pipeline.

    Args:
        kind: Its library and class, as in the pipeline's index.
        folder: Its folder.
        dtype: Its precision.
        preferred: Variant of its weights if there are several.

    Raises:
        MissingFiles: If weights are missing. Both libraries only log that, and continue with random values.
    """
    import torch

    library, name = kind
    _check_kind(name, folder)
    variant = WeightFiles.find(folder, preferred).variant or None
    try:
        with quiet(*LIBRARIES):
            model, report = getattr(import_module(library), name).from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                variant=variant,
                local_files_only=True,
                output_loading_info=True,
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the libraries raise errors of several others
        raise MissingFiles(
            f"{folder} cannot be loaded as a {name}: {first_line(error)}; export or copy it again"
        ) from error
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise MissingFiles(f"{folder} lacks weights that the pipeline needs: {names} ...; export it again")
    return model.eval()


def _check_kind(name: str, folder: Path) -> None:
    """Raise MissingFiles if the configuration in a folder is that of another class of model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingFiles(
            f"{folder} cannot be loaded as a {name}: its config.json cannot be read ({first_line(error)})"
        ) from error
    declared = config.get("_class_name") or (config.get("architectures") or [name])[0]
    # a text encoder can be read from any of CLIP's classes that hold one
    both_clip = declared.startswith("CLIP") and name.startswith("CLIPText")
    if declared != name and not both_clip:
        raise MissingFiles(f"{folder} holds a {declared}; expected a {name}")


def load_parts(
    pipe: Any, folder: Path, names: Sequence[str] = ENCODERS, *, exact: bool = False
) -> dict[str, Any]:
    """Load the models in a folder that can replace components of a pipeline.

    Args:
        pipe: A diffusers pipeline.
        folder: Folder with text_encoder/ and, for SDXL, text_encoder_2/; for some runs also unet/.
        names: Components to load, if the folder and the pipeline have them.
        exact: Whether each must be the same function of weights as the pipeline's own; otherwise it suffices
            that embeddings can be mixed.

    Returns:
        Models by component name, on the pipeline's device and in the precision of its own.

    Raises:
        MissingFiles: If the folder holds no text encoder of the pipeline, or a model of another architecture.
    """
    parts = {}
    for name in names:
        original = getattr(pipe, name, None)
        if original is None or not (folder / name).is_dir():
            continue
        kind = ("transformers" if name in ENCODERS else "diffusers", type(original).__name__)
        model = _load_component(kind, folder / name, str(original.dtype).removeprefix("torch."), "")
        keys = _UNET_SHAPE if name == "unet" else _ENCODER_SHAPE if exact else _MIXED_SIZES
        _check_architecture(folder / name, model.config, original.config, keys)
        parts[name] = model.to(pipe.device)
    if not any(name in parts for name in ENCODERS):
        raise MissingFiles(f"{folder} holds no text encoder of the pipeline; expected text_encoder in it")
    return parts


def _check_architecture(folder: Path, config: Any, original: Any, keys: Sequence[str]) -> None:
    """Raise MissingFiles if a model has other values of these keys than the component that it replaces."""
    pairs = {key: (getattr(config, key, None), getattr(original, key, None)) for key in keys}
    different = [f"{key} {its}, not {own}" for key, (its, own) in pairs.items() if its != own]
    if different:
        raise MissingFiles(
            f"{folder} has another architecture than the pipeline's own: {', '.join(different)}; give one of "
            "the same base model"
        )
