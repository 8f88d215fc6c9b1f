"""Which files of a diffusers component hold its weights: variants, parts and kinds of files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tcbench.errors import ConfigError, MissingFiles
from tcbench.files import visible

_SUFFIXES = (".safetensors", ".bin")
_NAMES = ("model", "diffusion_pytorch_model", "pytorch_model")
"""How the names of the files begin that transformers and diffusers load."""

_ADAPTED = re.compile(r"lora(_linear_layer)?[._](down|A)\.")
"""Part of the name of an adapter's first matrix, in the layouts of diffusers, PEFT and kohya's trainer."""

_PART = re.compile(r"-\d{5}-of-(\d{5})")


@dataclass(frozen=True)
class WeightFiles:
    """The files of one component's weights that are loaded.

    Each component may have a variant of its own, as with diffusers' ``variant``; it is part of the file names
    (``model.fp16.safetensors``).
    """

    variant: str
    """Variant of the weights; "": full precision."""
    files: list[Path]
    """The files, sorted."""

    @staticmethod
    def find(part: Path, preferred: str | None) -> WeightFiles:
        """Choose the variant of a component: the preferred one, else full precision, half precision, or any.

        Args:
            part: Folder of the component.
            preferred: Variant that other components of the pipeline have; None: no preference.

        Raises:
            MissingFiles: If there are no weights that can be loaded, or not all parts of them.
        """
        kinds: dict[tuple[str, str], list[Path]] = {}
        for suffix in _SUFFIXES:
            for file in visible(part.glob(f"*{suffix}")):
                # "non_ema" files hold raw training weights beside the averaged ones; diffusers ignores them
                if "non_ema" not in file.name:
                    kinds.setdefault((suffix, _variant(file.name)), []).append(file)
        wanted = [(suffix, preferred) for suffix in _SUFFIXES if preferred is not None]
        # safetensors before pickles, as both libraries load them
        others = [(suffix, v) for suffix in _SUFFIXES for v in ("", "fp16", *sorted(v for _, v in kinds))]
        choice = next((kind for kind in (*wanted, *others) if kind in kinds), None)
        if choice is None:
            raise MissingFiles(f"{part} holds no weights (*.safetensors); copy or export it again")
        _check(part, kinds[choice])
        return WeightFiles(choice[1], kinds[choice])

    @staticmethod
    def preferred(pipeline: Path) -> str | None:
        """Return the variant that the components of a pipeline use if they have it: that of its UNet.

        If the UNet has several, this is the full precision, so that a pipeline always has the same hash.
        """
        unet = pipeline / "unet"
        return WeightFiles.find(unet, None).variant if unet.is_dir() else None

    @staticmethod
    def refuse_as_model(name: str) -> None:
        """Raise an error if ``name`` is a file where a pipeline is expected, which says what to do with it.

        Raises:
            ConfigError: If it is a file.
        """
        path = Path(name).expanduser()
        if path.is_file():
            raise ConfigError(f"{name} is {_kind_of_file(path)}")

    @staticmethod
    def adapters(path: Path) -> int:
        """Check a LoRA adapter file and return the number of layers that it changes.

        Raises:
            MissingFiles: If it is missing, or contains no LoRA adapters.
        """
        if not path.is_file():
            raise MissingFiles(f"adapter file not found: {path}; expected a .safetensors file (LoRA)")
        names = _tensor_names(path) if path.suffix == ".safetensors" else []
        count = sum(_ADAPTED.search(name) is not None for name in names)
        if not count:
            raise MissingFiles(f"{path} contains no LoRA adapters; expected a .safetensors file of them")
        return count

    def plain_name(self, name: str) -> str | None:
        """Return the name of a file of the component without the variant; None for another variant's file."""
        if not name.endswith(_SUFFIXES) and ".index." not in name:
            return name
        if _variant(name) != self.variant:
            return None
        return name.replace(f".{self.variant}", "", 1) if self.variant else name


def _check(part: Path, files: list[Path]) -> None:
    """Raise an error unless both libraries would load these files."""
    if not any(file.name.startswith(_NAMES) for file in files):
        raise MissingFiles(
            f"{part} holds {files[0].name}, which neither diffusers nor transformers loads; expected a name "
            f"such as {' or '.join(f'{name}.safetensors' for name in _NAMES[:2])}"
        )
    for file in files:
        numbered = _PART.search(file.name)
        count = sum(_PART.sub("", other.name) == _PART.sub("", file.name) for other in files)
        if numbered and count < int(numbered[1]):
            raise MissingFiles(
                f"{part} holds {count} of {int(numbered[1])} parts of its weights; copy or export it again"
            )


def _variant(name: str) -> str:
    """Return the variant in the name of a file of weights, or of an index of such files; "": none."""
    words = _PART.sub("", name).split(".")[1:-1]
    return ".".join(word for word in words if word not in ("safetensors", "bin", "index"))


def _kind_of_file(path: Path) -> str:
    """Return what a file is that was given as a model, and how to use it."""
    if path.suffix not in (".safetensors", ".bin", ".ckpt", ".pt", ".pth"):
        return "a file; expected a named system, a TOML file, a diffusers folder or a hub id"
    known = path.suffix == ".safetensors"
    keys = _tensor_names(path) if known else []
    if any("lora" in key for key in keys):
        return "a LoRA adapter file, not a pipeline; name it as `lora` in a system's TOML file"
    if known and not any(key.startswith("model.diffusion_model.") for key in keys):
        return "a weights file, not a pipeline; expected a diffusers folder with model_index.json"
    xl = any(key.startswith("conditioner.embedders.1.") for key in keys)
    name = f"StableDiffusion{'XL' if xl else ''}Pipeline"
    return (
        f"{'' if known else 'probably '}a single-file checkpoint, which lacks the tokenizer, the scheduler "
        "and all configurations; convert it to a diffusers folder once: "
        f'python -c "from diffusers import {name} as P; '
        f"P.from_single_file('{path}').save_pretrained('{path.with_suffix('')}')\", then give the folder"
    )


def _tensor_names(path: Path) -> list[str]:
    """Return the names in the header of a safetensors file.

    Raises:
        ConfigError: If it is damaged.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            return list(json.loads(file.read(min(size, 100_000_000))))
        except ValueError as error:
            raise ConfigError(f"{path} is not a safetensors file ({error}): copy it again") from error
