"""Convert a torch checkpoint to a .safetensors file that can be used in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rewards.weights.lock import WeightsLock
from rewards.weights.tensors import NESTED, read_tensors
from tcbench.errors import MismatchError, TcbenchError
from tcbench.files import new_file


class _ConvertedCheckpoint(NamedTuple):
    """Result of a conversion."""

    path: Path
    tensors: int
    """Number of tensors in the file."""
    left_out: tuple[str, ...]
    """Keys that held no tensors."""


def convert_checkpoint(source: Path, out: Path | None = None) -> _ConvertedCheckpoint:
    """Write the tensors of a checkpoint to a .safetensors file, which `read_tensors` reads the same.

    An inner dict, such as "state_dict", becomes keys that begin with its name and a dot; the metadata lists
    these names. The lock file records that this file was made from ``source``, so that it is accepted where
    the sha256 of ``source`` is published. Metadata alone is not enough: any file can claim an origin.

    Args:
        source: A torch checkpoint.
        out: File to write; by default ``source`` with the suffix .safetensors.

    Raises:
        TcbenchError: If ``source`` is not a checkpoint or ``out`` exists.
        MismatchError: If the checkpoint cannot be read or represented.
    """
    target = out or source.with_suffix(".safetensors")
    if not source.is_file():
        raise TcbenchError(f"{source} is not a file; give a torch checkpoint")
    if source.suffix == ".safetensors" or target.suffix != ".safetensors":
        raise TcbenchError(
            f"cannot convert {source} to {target}: expected a torch checkpoint and a .safetensors file"
        )
    _check_free(target)
    lock = WeightsLock()
    source_sha256 = lock.sha256(source, fresh=True)
    tensors, nested, left_out = _flatten(read_tensors(source), source)
    metadata = {"format": "pt", NESTED: json.dumps(nested), "tcbench.source_sha256": source_sha256}
    with new_file(target) as part:
        _save(tensors, part, metadata)
        _check_free(target)
        # Recorded before the file has its name: a crash in between leaves an entry without a file, which
        # is harmless, and never a file that is refused.
        lock.record_conversion(lock.sha256(part, fresh=True), source_sha256)
    return _ConvertedCheckpoint(target, len(tensors), left_out)


def _check_free(path: Path) -> None:
    if path.exists():
        raise TcbenchError(f"{path} exists; remove it, or choose another file with --out")


def _flatten(
    content: Mapping[Any, Any], source: Path
) -> tuple[dict[str, Tensor], list[str], tuple[str, ...]]:
    """Return tensors by key, the names of inner dicts, and the keys that held no tensors."""
    flat = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    inner: dict[str, Tensor] = {}
    nested, left_out = [], []
    for name, value in content.items():
        entries = value if isinstance(value, Mapping) else {}
        tensors = {f"{name}.{key}": entry for key, entry in entries.items() if isinstance(entry, Tensor)}
        if tensors:
            nested.append(str(name))
            left_out += [f"{name}.{key}" for key in entries if f"{name}.{key}" not in tensors]
        elif str(name) not in flat:
            left_out.append(str(name))
        inner |= tensors
    # "a.b" could be key "b" of dict "a" or a key of the outer dict: reading could not tell them apart.
    unclear = [name for name in nested if "." in name] + [k for k in flat if k.partition(".")[0] in nested]
    if unclear:
        raise MismatchError(f"{source} has keys that would be ambiguous: {', '.join(unclear[:4])}")
    if not flat and not inner:
        raise MismatchError(f"{source} holds no tensors by name, neither directly nor in a state_dict")
    return flat | inner, nested, tuple(left_out)


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Save tensors; those that share memory, or are views of larger ones, are copied, as the format needs."""
    seen: set[int] = set()
    separate = {}
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise MismatchError(f"{key} is sparse or quantized; a .safetensors file holds plain tensors")
        dense = tensor.detach().contiguous()
        storage = dense.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != dense.nbytes
        seen.add(storage.data_ptr())
        separate[key] = dense.clone() if shared else dense
    try:
        save_file(separate, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
