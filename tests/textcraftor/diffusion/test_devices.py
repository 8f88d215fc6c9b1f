"""Devices, precisions and batch sizes: the requested one if present, a sensible default otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tcbench.errors import UnknownName
from textcraftor.diffusion.devices import batch_size_for, find_device, find_dtype


def test_auto_is_the_cpu_without_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert find_device("auto") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert find_device("auto") == "cuda"


def test_a_device_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert find_device("cuda:0") == "cuda:0"
    for asked in ("cuda:1", "cuda:x", "cpu:2"):
        with pytest.raises(ValueError, match=f"device {asked} not found on this machine"):
            find_device(asked)
    with pytest.raises(UnknownName, match="did you mean cuda"):
        find_device("cudo")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("gpu", "cuda"), ("GPU", "cuda"), ("gpu:1", "cuda:1"), ("nvidia", "cuda"), ("metal", "mps")],
)
def test_other_words_for_a_device_are_no_misspellings(given: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown device '{given}'; did you mean {meant}\\?$"):
        find_device(given)


def test_auto_precision_is_the_systems_own_on_an_accelerator_only() -> None:
    assert find_dtype("auto", "float16", "cuda") == "float16"
    assert find_dtype("auto", "float16", "cpu") == "float32"
    assert find_dtype("bfloat16", "float16", "cpu") == "bfloat16"
    with pytest.raises(UnknownName, match="did you mean float16"):
        find_dtype("float61", "float32", "cpu")


@pytest.mark.parametrize(
    ("latent", "device", "expected"),
    [(64, "cuda", 16), (128, "cuda", 4), (8, "cuda", 64), (8, "cpu", 16), (64, "cpu", 1)],
)
def test_larger_images_get_smaller_batches(tmp_path: Path, latent: int, device: str, expected: int) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"sample_size": latent}))
    assert batch_size_for(tmp_path, None, device) == expected
