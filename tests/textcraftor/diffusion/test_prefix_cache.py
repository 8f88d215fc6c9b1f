"""The prefix cache: hits, identity of entries, and its size limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from textcraftor.diffusion import prefix_cache as prefix
from textcraftor.diffusion.prefix_cache import PrefixCache
from textcraftor.sources import Sample


def sample(number: int) -> Sample:
    return Sample(number, number, f"prompt {number}", 1000 + number)


class Computer:
    """Latents that are different each time."""

    def __init__(self, rows: int) -> None:
        self.rows, self.calls = rows, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return torch.full((self.rows, 2, 1, 1), float(self.calls)) + torch.arange(self.rows).view(-1, 1, 1, 1)


def test_latents_are_cached_between_runs(tmp_path: Path) -> None:
    compute = Computer(2)
    first = PrefixCache(tmp_path, {"steps": 4}, 1.0).latents([sample(1), sample(2)], compute)
    cache = PrefixCache(tmp_path, {"steps": 4}, 1.0)
    assert torch.equal(cache.latents([sample(2), sample(1)], compute), first.flip(0))
    assert compute.calls == 1


def test_settings_text_and_noise_identify_an_entry(tmp_path: Path) -> None:
    compute = Computer(1)
    cache = PrefixCache(tmp_path, {"steps": 4}, 1.0)
    cache.latents([sample(1)], compute)
    PrefixCache(tmp_path, {"steps": 5}, 1.0).latents([sample(1)], compute)
    cache.latents([Sample(1, 1, "prompt 1", 7)], compute)
    cache.latents([Sample(1, 1, "another", 1001)], compute)
    assert compute.calls == 4


def test_incomplete_batch_is_computed_whole_and_cached_rows_win(tmp_path: Path) -> None:
    cache, compute = PrefixCache(tmp_path, {}, 1.0), Computer(2)
    first = cache.latents([sample(1), sample(2)], compute)
    latents = cache.latents([sample(2), sample(3)], compute)
    assert torch.equal(latents[0], first[1])  # not what the second call computed
    assert latents[1].flatten().tolist() == [3.0, 3.0]


def test_least_recently_used_files_are_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "CHECK_EVERY", 1)
    big = torch.zeros(1, 1000, 10, 10)  # 0.4 MB
    cache = PrefixCache(tmp_path, {}, 1e-3)
    for number in (1, 2):
        cache.latents([sample(number)], lambda: big)
    for age, path in enumerate(sorted(tmp_path.glob("*/*.safetensors"))):
        os.utime(path, (age, age))
    cache.latents([sample(1)], lambda: big)  # used: now the younger one
    cache.latents([sample(3)], lambda: big)
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 1e6
    compute = Computer(1)
    cache.latents([sample(1)], compute)
    assert compute.calls == 0
    cache.latents([sample(2)], compute)
    assert compute.calls == 1
