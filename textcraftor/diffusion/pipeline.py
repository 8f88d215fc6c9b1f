"""Diffusers pipelines as systems under test: find them, check and hash their files, load them.

Everything before `load` needs no torch, so that a run can refuse missing files before any work is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rewards.weights import hub
from rewards.weights.lock import cached_sha256
from tcbench.errors import MissingFiles
from tcbench.quiet import quiet
from textcraftor.diffusion.schedule import SAMPLERS

MICRO = Path(__file__).resolve().parents[1] / "micro" / "pipeline"
"""The embedded pipeline: a plain diffusers folder."""

REWRITING = MICRO.parent / "rewriters"
"""Language models that rewrite prompts for it."""

LIBRARIES = ("diffusers", "transformers")

INDEX = "model_index.json"
NOT_DRAWING = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that do not change what is drawn: neither loaded nor hashed."""

SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
"""What must be alike of two text encoders of which one takes the other's place."""

ENCODERS = ("text_encoder", "text_encoder_2")
NO_WEIGHTS = ("tokenizer", "tokenizer_2", "scheduler")
HUB_PATTERNS = (INDEX, "*/config.json", "*/*.safetensors.index.json", "scheduler/*", "tokenizer*/*")


@dataclass(frozen=True)
class Source:
    """Where a pipeline comes from: a diffusers folder, or a hub id and the weight files needed of it."""

    location: str
    revision: str | None = None
    weights: tuple[str, ...] = ("*/*.safetensors",)
    gigabytes: float | None = None
    """Size of the download, where known."""

    def __str__(self) -> str:
        at = f" at revision {self.revision}" if self.revision else ""
        size = f", {self.gigabytes:g} GB" if self.gigabytes else ""
        return f"{self.location}{at} ({', '.join(self.weights)} and configuration{size})"


def find_pipeline(source: Source, *, fetch: bool = True) -> Path:
    """The local folder of `source`, from the hub client's cache unless it is a folder.

    What is not cached is downloaded if `fetch` and the hub can be reached. Raises MissingFiles, with what
    to do, when it cannot be had or is incomplete.
    """
    folder = Path(source.location).expanduser()
    if not folder.is_dir():
        if folder.is_absolute():
            raise MissingFiles(f"no folder {folder}; expected a diffusers pipeline there")
        folder = _from_hub(source, fetch)
    list(pipeline_files(folder))  # names the first missing file
    return folder


def _from_hub(source: Source, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    offline = hub.offline_reason() if fetch else "nothing is downloaded now"
    local = "name a local diffusers folder instead (--model FOLDER, or `pipeline` in a system's TOML file)"
    try:
        folder = snapshot_download(
            source.location,
            revision=source.revision,
            allow_patterns=[*HUB_PATTERNS, *source.weights],
            ignore_patterns=["*/*.fp16.*", "*/*non_ema*", "safety_checker/*"] if _plain(source) else None,
            local_files_only=bool(offline),
        )
    except HFValidationError as error:
        raise MissingFiles(
            f"{source.location!r} is neither a diffusers folder nor a hub id: {local}"
        ) from error
    except Exception as error:  # the client lets its HTTP library's own errors through
        reason = f"not in the hub client's cache, and {offline}" if offline else str(error).splitlines()[0]
        raise MissingFiles(f"to download: {source}. Now: {reason}; fetch it online, or {local}") from error
    return Path(folder)


def _plain(source: Source) -> bool:
    """Whether the weight files are given by pattern, so that copies of them must be left out."""
    return any("*" in name for name in source.weights)


def pipeline_files(folder: Path) -> Iterator[Path]:
    """Every file of `folder` that decides what it draws. Raises MissingFiles at the first missing one."""
    index = folder / INDEX
    if not index.is_file():
        raise MissingFiles(f"{folder} is no diffusers pipeline: it lacks {INDEX}")
    yield index
    suffix = variant(folder)
    for name in components(folder):
        part = folder / name
        if not part.is_dir():
            raise MissingFiles(
                f"pipeline {folder} is incomplete: component {name}/ is missing; copy it again"
            )
        yield from sorted(file for file in part.iterdir() if file.suffix in (".json", ".txt"))
        if name not in NO_WEIGHTS:
            yield from _weight_files(part, suffix)


def components(folder: Path) -> list[str]:
    """Names of the components that take part in drawing."""
    parts = (
        name for name, value in _index(folder).items() if isinstance(value, list) and value[0] is not None
    )
    return sorted(name for name in parts if name not in NOT_DRAWING)


def _index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise MissingFiles(f"{folder / INDEX} is damaged ({error}): copy the pipeline again") from error
    return index


def variant(folder: Path) -> str | None:
    """The files to load: "fp16" where the folder holds half-precision weights only, else None."""
    unet = folder / "unet"
    halves = list(unet.glob("*.fp16*.safetensors"))
    return "fp16" if halves and len(list(unet.glob("*.safetensors"))) == len(halves) else None


def _weight_files(part: Path, suffix: str | None) -> list[Path]:
    for kind in ("safetensors", "bin"):
        files = [f for f in sorted(part.glob(f"*.{kind}")) if (".fp16" in f.name) == (suffix == "fp16")]
        files = [f for f in files if "non_ema" not in f.name]
        if files:
            return files
    raise MissingFiles(f"pipeline component {part} holds no weights (*.safetensors): copy the pipeline again")


def pipeline_sha256(folder: Path) -> str:
    """Identity of what `folder` draws: over the names and contents of `pipeline_files`."""
    lines = [
        f"{file.relative_to(folder).as_posix()} {cached_sha256(file)}" for file in pipeline_files(folder)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def component_sha256(folder: Path) -> str:
    """Identity of a model's folder (config.json and weights) that replaces a component of a pipeline."""
    if not (folder / "config.json").is_file():
        raise MissingFiles(f"{folder} is no model's folder: it lacks config.json")
    files = [folder / "config.json", *_weight_files(folder, None)]
    return hashlib.sha256("\n".join(f"{f.name} {cached_sha256(f)}" for f in files).encode()).hexdigest()


def encoders_sha256(folder: Path) -> str:
    """Identity of the text encoders in a folder (text_encoder/, text_encoder_2/) beside a pipeline's own."""
    found = [name for name in ENCODERS if (folder / name).is_dir()]
    if not found:
        raise MissingFiles(f"{folder} holds no text encoder: expected {' or '.join(ENCODERS)} in it")
    lines = [f"{name} {component_sha256(folder / name)}" for name in found]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# from here on torch and diffusers are loaded


def load(
    folder: Path,
    *,
    device: str,
    dtype: str,
    sampler: str,
    spacing: str = "",
    replaced: Mapping[str, Path] = MappingProxyType({}),
) -> Any:
    """The diffusers pipeline of `folder` in eval mode, with `sampler`; components of other folders in place
    of its own where `replaced`. `spacing` of timesteps is the pipeline's own unless given.
    """
    import diffusers
    from diffusers import DiffusionPipeline

    index = _index(folder)
    parts: dict[str, Any] = {name: None for name in ("safety_checker", "feature_extractor") if name in index}
    if "safety_checker" in index:
        parts["requires_safety_checker"] = False
    for name in components(folder):
        if name not in NO_WEIGHTS:
            place = replaced.get(name, folder / name)
            parts[name] = _load_component(index[name], place, dtype, variant(folder))
    with quiet(*LIBRARIES):
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **parts)
    pipe.scheduler = getattr(diffusers, SAMPLERS[sampler]).from_config(
        pipe.scheduler.config, **({"timestep_spacing": spacing} if spacing else {})
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _load_component(kind: Sequence[str], folder: Path, dtype: str, variant: str | None) -> Any:
    """One model of a pipeline; `kind` is its (library, class). Raises MissingFiles for lacking weights.

    Both libraries only log what weights a file lacks, and go on with random numbers.
    """
    import torch

    library, name = kind
    if variant and not list(folder.glob(f"*.{variant}*")):
        variant = None  # a text encoder from elsewhere has whole precision
    with quiet(*LIBRARIES):
        model, report = getattr(import_module(library), name).from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            variant=variant,
            local_files_only=True,
            output_loading_info=True,
        )
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise MissingFiles(f"{folder} lacks weights that the pipeline needs: {names} ...; export it again")
    return model.eval()


def load_encoders(pipe: Any, folder: Path) -> Any:
    """`pipe` with the text encoders that lie in `folder` (text_encoder/, text_encoder_2/), all else shared.

    Raises MissingFiles for a folder that holds none, or one of another architecture.
    """
    from textcraftor.diffusion.conditioning import replace_encoders

    found = {}
    for name in ENCODERS:
        if (folder / name).is_dir() and getattr(pipe, name, None) is not None:
            own = getattr(pipe, name)
            kind = ("transformers", type(own).__name__)
            model = _load_component(kind, folder / name, str(own.dtype).removeprefix("torch."), None)
            other = [key for key in SIZES if getattr(model.config, key) != getattr(own.config, key)]
            if other:
                raise MissingFiles(
                    f"{folder / name} has {other[0]} {getattr(model.config, other[0])}, the pipeline's own "
                    f"{getattr(own.config, other[0])}: it was made for another model"
                )
            found[name] = model.to(pipe.device)
    if not found:
        raise MissingFiles(f"{folder} holds no text encoder: expected {' or '.join(ENCODERS)} in it")
    return replace_encoders(pipe, found)
