"""A small tokenizer and an untrained world-clip, written once, for the tests of training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world tokenizer of 100 merges, learned from 300 captions."""
    from rewards.world.training.tokenizer import _caption_corpus, _write_tokenizer

    folder = tmp_path_factory.mktemp("world") / "tokenizer"
    _write_tokenizer(folder, _caption_corpus(300), merges=100)
    return folder


@pytest.fixture(scope="session")
def world_clip(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """The folder of a world-clip with random weights."""
    import torch

    from rewards.world.training import clip
    from rewards.world.training.tokenizer import CaptionTokenizer

    torch.manual_seed(0)
    size = len(CaptionTokenizer(tokenizer))
    folder = tmp_path_factory.mktemp("world") / "world-clip"
    clip.save_clip(clip._build_clip(size), size, folder)
    return folder


@pytest.fixture
def build_folder(tmp_path: Path, tokenizer: Path, world_clip: Path) -> Path:
    """Folder of a build with the tokenizer and the untrained world-clip, also in place of world-clip-read."""
    return new_build(tmp_path / "build", tokenizer, world_clip)


@pytest.fixture
def other_build_folder(tmp_path: Path, tokenizer: Path, world_clip: Path) -> Path:
    """Another such folder."""
    return new_build(tmp_path / "other-build", tokenizer, world_clip)


def new_build(folder: Path, tokenizer: Path, world_clip: Path) -> Path:
    shutil.copytree(tokenizer, folder / "tokenizer")
    for name in ("world-clip", "world-clip-read"):
        shutil.copytree(world_clip, folder / name)
    return folder
