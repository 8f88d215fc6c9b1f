"""The frozen prefix: latents before the last K steps, which depend on prompt and noise alone, kept on disk.

The first T - K steps are run by the original encoder, so their outcome is the same in every epoch, for every
reward and every tuned encoder. Any number of runs may share a folder: its files are named by all that decides
their content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from textcraftor.sources import Sample

CHECK_EVERY = 64
"""Files written between two looks at the folder's size."""


class PrefixCache:
    """Latents (C, h, w) by prompt, noise and ``settings`` (weights, scheduler, steps, guidance, size).

    Holds at most ``gigabytes``; what was used longest ago goes first. A batch with a missing sample is
    computed whole, so a sample's latents never depend on what else was cached.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], gigabytes: float) -> None:
        self.folder, self.limit = folder, gigabytes * 1e9
        self.settings = json.dumps(settings, sort_keys=True)
        self.hits = self.misses = 0
        self._written = 0
        folder.mkdir(parents=True, exist_ok=True)

    def latents(self, samples: Sequence[Sample], compute: Callable[[], Tensor]) -> Tensor:
        """Latents (B, C, h, w) of ``samples``, which ``compute`` gives for all of them."""
        paths = [self._path(sample) for sample in samples]
        found = [_read(path) for path in paths]
        known = [latents for latents in found if latents is not None]
        self.hits += len(known)
        self.misses += len(found) - len(known)
        if len(known) == len(found):
            return torch.stack(known)
        computed = compute()
        device = computed.device
        for row, path in enumerate(paths):
            if found[row] is None:
                self._write(path, computed[row])
        rows = [computed[row] if old is None else old.to(device) for row, old in enumerate(found)]
        return torch.stack(rows)

    def _path(self, sample: Sample) -> Path:
        key = json.dumps([self.settings, sample.text, sample.noise_seed])
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:34]}.safetensors"

    def _write(self, path: Path, latents: Tensor) -> None:
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        save_file({"latents": latents.detach().float().cpu().contiguous()}, temporary)
        os.replace(temporary, path)
        self._written += 1
        if self._written % CHECK_EVERY == 0:
            self._shrink()

    def _shrink(self) -> None:
        """Remove what was used longest ago, down to nine tenths of the limit."""
        files = []
        for path in self.folder.glob("*/*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another run that shares the folder was faster
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        size = sum(file[1] for file in files)
        if size <= self.limit:
            return
        for _, bytes_, path in sorted(files):
            path.unlink(missing_ok=True)
            size -= bytes_
            if size <= 0.9 * self.limit:
                return


def _read(path: Path) -> Tensor | None:
    try:
        os.utime(path)  # it was used now
        return load_file(path)["latents"]
    except FileNotFoundError:
        return None
    except SafetensorError:  # torn by a power cut: it is made again
        path.unlink(missing_ok=True)
        return None
