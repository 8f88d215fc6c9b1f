"""Find, check and hash diffusers pipelines.

Nothing here needs torch, so that a run can report missing files at once (`textcraftor.diffusion.loading`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rewards.weights import hub
from rewards.weights.lock import WeightsLock
from tcbench.errors import FileFormatError, MissingFiles, first_line
from tcbench.files import visible
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


@dataclass(frozen=True)
class PipelineIndex:
    """The list of a pipeline's components."""

    entries: Mapping[str, Any]
    """Content of model_index.json: library and class by component, and settings."""

    @staticmethod
    def read(folder: Path) -> PipelineIndex:
        """Read the index of a pipeline.

        Raises:
            MissingFiles: If it is damaged.
            FileFormatError: If it is a pipeline of another kind.
        """
        try:
            entries: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except ValueError as error:
            raise MissingFiles(f"{folder / INDEX} is damaged ({error}): copy the pipeline again") from error
        if "unet" not in entries:
            raise FileFormatError(
                f"{folder} is a {entries.get('_class_name', 'pipeline')}, which has no UNet; expected a "
                "pipeline of Stable Diffusion 1.x, 2.x or XL"
            )
        return PipelineIndex(entries)

    @property
    def components(self) -> list[str]:
        """Names of the components that change generated images."""
        parts = (
            name for name, value in self.entries.items() if isinstance(value, list) and value[0] is not None
        )
        return sorted(name for name in parts if name not in UNUSED_COMPONENTS)

    @property
    def models(self) -> list[str]:
        """Names of those that have weights."""
        return [name for name in self.components if name not in _NO_WEIGHTS]


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
        local = folder.is_dir()
        if not local:
            if folder.is_absolute():
                raise MissingFiles(f"folder not found: {folder}; expected a diffusers pipeline")
            folder = _from_hub(self, fetch)
        try:
            list(_pipeline_files(folder))  # raises for the first missing file
        except MissingFiles as error:  # a download completes the hub's cache, and no folder of the user's
            raise MissingFiles(str(error), download=not local) from error
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
            models = PipelineIndex.read(folder).models
            lacking = [name for name in models if not list((folder / name).glob("*.safetensors"))]
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
        raise MissingFiles(
            f"missing pipeline {source}: {reason}; download it online, or {local}", download=True
        ) from error
    return folder


def _pipeline_files(folder: Path) -> Iterator[Path]:
    """Yield every file of a pipeline that changes generated images.

    Raises:
        MissingFiles: At the first file that is missing.
    """
    if not (folder / INDEX).is_file():
        raise MissingFiles(f"{folder} is not a diffusers pipeline: missing {INDEX}")
    yield folder / INDEX
    index, preferred = PipelineIndex.read(folder), WeightFiles.preferred(folder)
    for name in index.components:
        part = folder / name
        if not part.is_dir():
            raise MissingFiles(f"pipeline {folder} is incomplete: missing component {name}/; copy it again")
        yield from (file for file in visible(part.iterdir()) if file.suffix in (".json", ".txt"))
        if name in index.models:
            yield from WeightFiles.find(part, preferred).files


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
        raise MissingFiles(f"{folder} holds no text encoder; expected {' or '.join(ENCODERS)} in it")
    lines = [f"{name} {component_sha256(folder / name)}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
