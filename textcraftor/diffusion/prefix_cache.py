"""Cache of the frozen prefix: latents before the tuned steps, on disk.

The first T - K steps use the original encoder, so their latents depend on prompt and noise alone: they are
the same in every epoch, for every reward and every tuned encoder. Runs may share a folder, because a file's
name is a hash of everything that decides its content.
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

from tcbench.files import new_file
from textcraftor.diffusion.schedule import Schedule
from textcraftor.settings import MemorySettings
from textcraftor.sources import Sample

CHECK_EVERY = 64
"""Files written between two checks of the folder's size."""


class PrefixCache:
    """Latents (C, h, w) by prompt, noise and settings.

    If one sample of a batch is missing, the whole batch is computed: a sample's latents then never depend on
    which others were cached.

    Args:
        folder: Folder of the cache; it may be shared.
        settings: Everything else that decides the latents: weights, scheduler, steps, guidance, size.
        gigabytes: Largest size; the files that were not used for longest are removed first.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], gigabytes: float) -> None:
        self.folder, self.limit = folder, gigabytes * 1e9
        self.settings = json.dumps(settings, sort_keys=True)
        self._written = 0
        folder.mkdir(parents=True, exist_ok=True)

    def latents(self, samples: Sequence[Sample], compute: Callable[[], Tensor]) -> Tensor:
        """Return the latents (B, C, h, w) of ``samples``.

        Args:
            samples: B samples.
            compute: Computes the latents of all of them, if one is missing.
        """
        paths = [self._path(sample) for sample in samples]
        cached = [_read(path) for path in paths]
        hits = [latents for latents in cached if latents is not None]
        if len(hits) == len(cached):
            return torch.stack(hits)
        computed = compute()
        device = computed.device
        for row, path in enumerate(paths):
            if cached[row] is None:
                self._write(path, computed[row])
        # an earlier value wins over the computed one, which may differ by rounding with the batch
        rows = [computed[row] if old is None else old.to(device) for row, old in enumerate(cached)]
        return torch.stack(rows)

    def _path(self, sample: Sample) -> Path:
        key = json.dumps([self.settings, sample.text, sample.noise_seed])
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:34]}.safetensors"

    def _write(self, path: Path, latents: Tensor) -> None:
        path.parent.mkdir(exist_ok=True)
        with new_file(path) as temporary:
            save_file({"latents": latents.detach().float().cpu().contiguous()}, temporary)
        self._written += 1
        if self._written % CHECK_EVERY == 0:
            self._shrink()

    def _shrink(self) -> None:
        """Remove the files that were not used for longest, down to nine tenths of the limit."""
        files = []
        for path in self.folder.glob("*/*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # removed by another run that shares the folder
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

    @staticmethod
    def open(memory: MemorySettings, schedule: Schedule, pipeline_sha256: str) -> PrefixCache | None:
        """Open the cache of a training run; None if its settings name no folder or all steps are tuned.

        Args:
            memory: The cache's folder and size, and the precision of forward passes.
            schedule: Sampling settings of the run.
            pipeline_sha256: Hash of the frozen pipeline.
        """
        before = schedule.steps - schedule.tuned_step_count
        if not memory.prefix_cache or not before:
            return None
        settings = {
            "pipeline": pipeline_sha256,
            "before": before,
            "precision": memory.precision,
            **{name: getattr(schedule, name) for name in ("steps", "sampler", "spacing", "guidance", "size")},
        }
        return PrefixCache(Path(memory.prefix_cache).expanduser(), settings, memory.prefix_gigabytes)


def _read(path: Path) -> Tensor | None:
    try:
        os.utime(path)  # mark as used
        return load_file(path)["latents"]
    except FileNotFoundError:
        return None
    except SafetensorError:  # torn by a crash: compute it again
        path.unlink(missing_ok=True)
        return None
