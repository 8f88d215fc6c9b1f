"""Read checkpoints without running code from them, and load them with every key checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcbench.errors import MismatchError, first_line
from tcbench.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

NESTED = "tcbench.nested"
"""Metadata key of a converted file: names of the inner dicts that its keys begin with, as a JSON list."""

_TRANSFORMERS_WEIGHTS = "model.safetensors"
_SHOWN_KEYS = 4
"""Number of wrong keys that an error names."""


def read_tensors(path: Path) -> dict[str, Any]:
    """Read the tensors of a .safetensors file or a torch checkpoint, on the CPU.

    A torch checkpoint may be nested, for example under "state_dict". A file that `rewards.weights.convert`
    made of it reads the same.

    Raises:
        MismatchError: If the file is damaged, would run code, or does not hold tensors by name.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged files make the libraries raise nearly any exception
        raise MismatchError(f"{path} cannot be read as weights ({_reason(error)}); fetch it again") from error
    if not isinstance(content, Mapping):
        raise MismatchError(
            f"{path} holds a {type(content).__name__}; expected tensors by name, as in a state_dict"
        )
    return dict(content)


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], source: Path, ignore: Iterable[str] = ()
) -> None:
    """Load a state dict into a module; every key and shape must fit.

    Args:
        module: The module; its precision is kept.
        state: Tensors by key.
        source: Where ``state`` was read from, for the error.
        ignore: Endings of keys that carry no weights, such as stored position numbers.

    Raises:
        MismatchError: If keys are missing, unexpected or have another shape.
    """
    endings = tuple(ignore)
    given = {key: value for key, value in state.items() if not (endings and str(key).endswith(endings))}
    expected = module.state_dict()
    wrong = dict.fromkeys(expected.keys() - given.keys(), "missing")
    wrong |= dict.fromkeys(given.keys() - expected.keys(), "not expected")
    for key in expected.keys() & given.keys():
        shape = getattr(given[key], "shape", None)
        if shape is None:
            wrong[key] = f"a {type(given[key]).__name__}, not a tensor"
        elif shape != expected[key].shape:
            wrong[key] = f"shape {tuple(shape)}, not {tuple(expected[key].shape)}"
    if wrong:
        raise _mismatch(source, type(module), wrong)
    module.load_state_dict(given)


def from_pretrained(architecture: type[Any], folder: Path, ignore: Iterable[str] = ()) -> Any:
    """Load a transformers model in float32; every key must fit, where transformers only warns.

    Args:
        architecture: A class of transformers.
        folder: The model's folder.
        ignore: Beginnings of keys that may be left over, such as those of a tower that is not built.

    Raises:
        MismatchError: If keys are missing, unexpected or have another shape.
    """
    source, beginnings = folder / _TRANSFORMERS_WEIGHTS, tuple(ignore)
    try:
        with quiet("transformers"):
            model, report = architecture.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype="float32",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the error of transformers would not name the keys
            )
    except Exception as error:  # damaged files make transformers raise nearly any exception
        raise MismatchError(f"{source} does not fit {architecture.__name__}: {first_line(error)}") from error
    wrong = {str(key): "missing" for key in report["missing_keys"]}
    wrong |= {
        key: "not expected"
        for key in map(str, report["unexpected_keys"])
        if not key.startswith(beginnings) and not key.endswith(".position_ids")
    }
    wrong |= {
        str(key): f"shape {tuple(given)}, not {tuple(expected)}"
        for key, given, expected in report["mismatched_keys"]
    }
    if wrong:
        raise _mismatch(source, architecture, wrong)
    return model


def _mismatch(source: Path, architecture: type[Any], wrong: Mapping[str, str]) -> MismatchError:
    """Return the error for weights that do not fit; ``wrong`` is what is wrong by key."""
    shown = "; ".join(f"{key}: {what}" for key, what in sorted(wrong.items(), key=str)[:_SHOWN_KEYS])
    more = f"; and {len(wrong) - _SHOWN_KEYS} more" if len(wrong) > _SHOWN_KEYS else ""
    return MismatchError(f"{source} does not fit {architecture.__name__}: {shown}{more}")


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        nested = json.loads((file.metadata() or {}).get(NESTED, "[]"))
    content: dict[str, Any] = {name: {} for name in nested}
    for key, tensor in tensors.items():
        outer, _, inner = key.partition(".")
        target, name = (content[outer], inner) if outer in nested else (content, key)
        target[name] = tensor
    return content


def _reason(error: Exception) -> str:
    """Return why a file is unreadable, in one line; torch's own text advises to run the code in it."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code:
        return f"it would run {code[1]}, which weights must not"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(". ")[0] if lines else type(error).__name__
