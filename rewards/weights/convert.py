"""From a torch checkpoint to a .safetensors file that can be given in its place."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rewards.weights import lock
from rewards.weights.locate import NESTED, file_sha256, read_tensors
from tcbench.errors import MismatchError


class Converted(NamedTuple):
    """The file that was made, how many tensors it holds, and which keys held none and were left out."""

    path: Path
    tensors: int
    left_out: tuple[str, ...]


def convert(source: Path, out: Path | None = None) -> Converted:
    """Write the tensors of ``source`` to ``out`` (beside it by default); `read_tensors` reads both alike.

    An inner dict, such as "state_dict", becomes keys that begin with its name and a dot; the metadata says
    which. That the file was made of ``source`` is recorded in the lock file, so that it is accepted where the
    sha256 of ``source`` is published: metadata could claim anything, the lock file names the very bytes that
    were written here. Raises ValueError for a file that exists or is none, and `MismatchError`.
    """
    made = out or source.with_suffix(".safetensors")
    if not source.is_file():
        raise ValueError(f"{source} is not a file; give a torch checkpoint")
    if source.suffix == ".safetensors" or made.suffix != ".safetensors":
        raise ValueError(f"cannot convert {source} to {made}: from a torch checkpoint to a .safetensors file")
    _check_free(made)
    original = file_sha256(source, fresh=True)
    tensors, nested, left_out = _flatten(read_tensors(source), source)
    part = made.with_name(f"{made.name}.{os.getpid()}.part")
    try:
        _save(tensors, part, {"format": "pt", NESTED: json.dumps(nested), "tcbench.source_sha256": original})
        _check_free(made)
        lock.record_conversion(file_sha256(part, fresh=True), original)
        os.replace(part, made)
    finally:
        part.unlink(missing_ok=True)
    return Converted(made, len(tensors), left_out)


def _check_free(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} exists; remove it, or choose another place with --out")


def _flatten(
    content: Mapping[Any, Any], source: Path
) -> tuple[dict[str, Tensor], list[str], tuple[str, ...]]:
    """Tensors by key, the names of inner dicts that were dissolved, and keys that held no tensors."""
    flat = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    inner: dict[str, Tensor] = {}
    nested, left_out = [], []
    for name, value in content.items():
        parts = value if isinstance(value, Mapping) else {}
        found = {f"{name}.{key}": part for key, part in parts.items() if isinstance(part, Tensor)}
        if found:
            nested.append(str(name))
            left_out += [f"{name}.{key}" for key in parts if f"{name}.{key}" not in found]
        elif str(name) not in flat:
            left_out.append(str(name))
        inner |= found
    unclear = [name for name in nested if "." in name] + [k for k in flat if k.partition(".")[0] in nested]
    if unclear:
        raise MismatchError(f"{source} has keys that would not stay apart: {', '.join(unclear[:4])}")
    if not flat and not inner:
        raise MismatchError(f"{source} holds no tensors by name, neither as they are nor in a state_dict")
    return flat | inner, nested, tuple(left_out)


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Each tensor with memory of its own: what shares it, or is a part of more, is copied."""
    seen: set[int] = set()
    own = {}
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise MismatchError(f"{key} is sparse or quantized; a .safetensors file holds plain tensors")
        dense = tensor.detach().contiguous()
        storage = dense.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != dense.nbytes
        seen.add(storage.data_ptr())
        own[key] = dense.clone() if shared else dense
    try:
        save_file(own, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
