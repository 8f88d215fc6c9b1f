"""Find, check, hash and load diffusers pipelines.

Everything before `load_pipeline` needs no torch, so that a run can report missing files at once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rewards.weights import hub
from rewards.weights.lock import WeightsLock
from tcbench.errors import FileFormatError, MissingFiles, first_line
from tcbench.files import visible
from tcbench.quiet import quiet
from textcraftor.diffusion.schedule import SAMPLERS
from textcraftor.diffusion.weight_files import WeightFiles

MICRO = Path(__file__).resolve().parents[1] / "micro" / "pipeline"
"""The embedded pipeline: a diffusers folder."""

MICRO_REWRITERS = MICRO.parent / "rewriters"
"""Folder of the embedded language models that rewrite prompts for it."""

LIBRARIES = ("diffusers", "transformers")
"""Libraries whose messages are silenced while loading and sampling."""

INDEX = "model_index.json"
"""File that lists the components of a diffusers pipeline."""

UNUSED_COMPONENTS = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that do not change generated images: neither loaded nor hashed."""

ENCODERS = ("text_encoder", "text_encoder_2")
"""Components that encode text; only SDXL has the second one."""

_NO_WEIGHTS = ("tokenizer", "tokenizer_2", "scheduler")
_HUB_PATTERNS = (INDEX, "*/config.json", "*/*.safetensors.index.json", "scheduler/*", "tokenizer*/*")

_ENCODER_SIZES = ("hidden_size", "vocab_size", "max_position_embeddings")
"""Configuration values that must be equal for one text encoder to replace another in all steps."""


@dataclass(frozen=True)
class Source:
    """Where a pipeline comes from."""

    location: str
    """A diffusers folder or a hub id."""
    revision: str | None = None
    """Git revision of the hub id."""
    weights: tuple[str, ...] = ("*/*.safetensors",)
    """Weight files to download, by name or pattern."""
    gigabytes: float | None = None
    """Size of the download, if known."""

    def __str__(self) -> str:
        at = f" at revision {self.revision}" if self.revision else ""
        size = f", {self.gigabytes:g} GB" if self.gigabytes else ""
        return f"{self.location}{at} ({', '.join(self.weights)} and configuration{size})"

    def find(self, *, fetch: bool = True) -> Path:
        """Return the local folder of the pipeline, after checking that it is complete.

        A hub id is looked up in the hub client's cache.

        Args:
            fetch: Download what is not cached if the hub can be reached.

        Raises:
            MissingFiles: If it is neither on this machine nor downloadable, or incomplete.
        """
        folder = Path(self.location).expanduser()
        if not folder.is_dir():
            if folder.is_absolute():
                raise MissingFiles(f"folder not found: {folder}; expected a diffusers pipeline")
            folder = _from_hub(self, fetch)
        list(_pipeline_files(folder))  # raises for the first missing file
        return folder

    def copy(
        self, out: Path, *, only: Collection[str] | None = None, leave_out: Collection[str] = ()
    ) -> None:
        """Copy the files that change generated images into a folder, under names without variants.

        diffusers loads a variant only if it is asked for one, and tuned components have none.

        Args:
            out: The folder.
            only: Names of the components that are copied; None: the whole pipeline.
            leave_out: Names of components that are not copied.

        Raises:
            MissingFiles: If the pipeline is not on this machine, or incomplete.
        """
        folder = self.find()
        preferred = WeightFiles.preferred(folder)
        for file in _pipeline_files(folder):
            component = file.relative_to(folder).parts[0]
            if component in leave_out or (only is not None and component not in only):
                continue
            name: str | None = file.name
            if file.parent != folder and component not in _NO_WEIGHTS:
                weights = WeightFiles.find(file.parent, preferred)
                name = weights.plain_name(file.name)
            if name is None:
                continue  # the list of another variant's files
            path = out / file.relative_to(folder).parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name != file.name and ".index." in name:  # it lists files that are renamed
                text = file.read_text(encoding="utf-8").replace(f".{weights.variant}", "")
                path.write_text(text, encoding="utf-8")
            else:
                shutil.copyfile(file, path)  # follows links, because the hub's cache consists of links


def _from_hub(source: Source, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    offline = hub.offline_reason() if fetch else "downloads are off"
    local = "give a local diffusers folder instead (--model FOLDER, or `pipeline` in a system's TOML file)"
    # Patterns also match copies that are not needed; listed file names do not.
    by_pattern = any("*" in name for name in source.weights)
    unneeded = ["*/*non_ema*", "safety_checker/*"] if by_pattern else []
    try:
        download = partial(
            snapshot_download, source.location, revision=source.revision, local_files_only=bool(offline)
        )
        folder = Path(
            download(
                allow_patterns=[*_HUB_PATTERNS, *source.weights],
                ignore_patterns=["*/*.fp16.*", *unneeded] if by_pattern else None,
            )
        )
        if by_pattern and (folder / INDEX).is_file():
            parts = [name for name in _components(folder) if name not in _NO_WEIGHTS]
            lacking = [name for name in parts if not list((folder / name).glob("*.safetensors"))]
            if lacking:  # components that the repository holds in half precision only
                download(
                    allow_patterns=[f"{name}/*.safetensors*" for name in lacking], ignore_patterns=unneeded
                )
    except HFValidationError as error:
        raise MissingFiles(
            f"{source.location!r} is neither a diffusers folder nor a hub id: {local}"
        ) from error
    except Exception as error:  # the client does not wrap the errors of its HTTP library
        reason = f"not in the hub client's cache, and {offline}" if offline else first_line(error)
        raise MissingFiles(f"missing pipeline {source}: {reason}; download it online, or {local}") from error
    return folder


def _pipeline_files(folder: Path) -> Iterator[Path]:
    """Yield every file of a pipeline that changes generated images.

    Raises:
        MissingFiles: At the first file that is missing.
    """
    index = folder / INDEX
    if not index.is_file():
        raise MissingFiles(f"{folder} is not a diffusers pipeline: missing {INDEX}")
    yield index
    preferred = WeightFiles.preferred(folder)
    for name in _components(folder):
        part = folder / name
        if not part.is_dir():
            raise MissingFiles(f"pipeline {folder} is incomplete: missing component {name}/; copy it again")
        yield from (file for file in visible(part.iterdir()) if file.suffix in (".json", ".txt"))
        if name not in _NO_WEIGHTS:
            yield from WeightFiles.find(part, preferred).files


def _components(folder: Path) -> list[str]:
    """Return the names of the components that change generated images.

    Raises:
        FileFormatError: If it is a pipeline of another kind.
    """
    if "unet" not in _index(folder):
        raise FileFormatError(
            f"{folder} is a {_index(folder).get('_class_name', 'pipeline')}, which has no UNet; expected a "
            "pipeline of Stable Diffusion 1.x, 2.x or XL"
        )
    parts = (
        name for name, value in _index(folder).items() if isinstance(value, list) and value[0] is not None
    )
    return sorted(name for name in parts if name not in UNUSED_COMPONENTS)


def _index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise MissingFiles(f"{folder / INDEX} is damaged ({error}): copy the pipeline again") from error
    return index


# Hashes are part of generation ids: what is hashed here must not change.


def pipeline_sha256(folder: Path) -> str:
    """Return the hash that identifies a pipeline, over the relative names and contents of its files.

    The same files in another folder have the same hash; unused components do not change it.
    """
    lines = [
        f"{file.relative_to(folder).as_posix()} {WeightsLock().sha256(file)}"
        for file in _pipeline_files(folder)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def component_sha256(folder: Path) -> str:
    """Return the hash of a model's folder (config.json and weights) that replaces a pipeline's component.

    Raises:
        MissingFiles: If one of them is missing.
    """
    if not (folder / "config.json").is_file():
        raise MissingFiles(f"{folder} is not a model folder: missing config.json")
    files = [folder / "config.json", *WeightFiles.find(folder, "").files]
    return hashlib.sha256(
        "\n".join(f"{f.name} {WeightsLock().sha256(f)}" for f in files).encode()
    ).hexdigest()


def encoders_sha256(folder: Path) -> str:
    """Return the hash of the text encoders in a folder (text_encoder/, text_encoder_2/).

    Raises:
        MissingFiles: If there are none, or files are missing.
    """
    names = [name for name in ENCODERS if (folder / name).is_dir()]
    if not names:
        raise _no_encoders(folder)
    lines = [f"{name} {component_sha256(folder / name)}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _no_encoders(folder: Path) -> MissingFiles:
    return MissingFiles(f"{folder} holds no text encoder; expected {' or '.join(ENCODERS)} in it")


# From here on torch and diffusers are loaded.


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

    index = _index(folder)
    parts: dict[str, Any] = {name: None for name in ("safety_checker", "feature_extractor") if name in index}
    if "safety_checker" in index:
        parts["requires_safety_checker"] = False  # otherwise diffusers warns about its absence
    for name in _components(folder):
        if name not in _NO_WEIGHTS:
            path = replaced.get(name, folder / name)
            preferred = "" if name in replaced else WeightFiles.preferred(folder)
            parts[name] = _load_component(index[name], path, dtype, preferred)
            if name in ENCODERS and name in replaced:
                own = type(parts[name].config).from_pretrained(folder / name)
                _check_architecture(parts[name].config, own, path, _ENCODER_SIZES)
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


def load_encoders(pipe: Any, folder: Path) -> Any:
    """Return a pipeline with the text encoders in a folder, which shares everything else with ``pipe``.

    Args:
        pipe: A diffusers pipeline.
        folder: Folder with text_encoder/ and, for SDXL, text_encoder_2/.

    Raises:
        MissingFiles: If the folder holds no text encoder, or one of another architecture.
    """
    from textcraftor.diffusion.conditioning import replace_encoders

    encoders = {}
    for name in ENCODERS:
        if (folder / name).is_dir() and getattr(pipe, name, None) is not None:
            original = getattr(pipe, name)
            kind = ("transformers", type(original).__name__)
            dtype = str(original.dtype).removeprefix("torch.")
            model = _load_component(kind, folder / name, dtype, "")
            # their embeddings are mixed with those of the original, layer by layer trained alike
            sizes = (*_ENCODER_SIZES, "num_hidden_layers")
            _check_architecture(model.config, original.config, folder / name, sizes)
            encoders[name] = model.to(pipe.device)
    if not encoders:
        raise _no_encoders(folder)
    return replace_encoders(pipe, encoders)


def _check_architecture(config: Any, original: Any, path: Path, keys: Sequence[str]) -> None:
    for key in keys:
        if getattr(config, key) != getattr(original, key):
            raise MissingFiles(
                f"{path} has {key} {getattr(config, key)}, but the pipeline's own text encoder has "
                f"{getattr(original, key)}; give an encoder of the same base model"
            )
