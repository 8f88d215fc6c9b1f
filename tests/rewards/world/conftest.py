"""A small tokenizer and an untrained world-clip, written once, that the models' tests start from."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world tokenizer of 100 merges, learnt from 300 captions."""
    from rewards.world.training.tokenizer import caption_corpus, write_tokenizer

    folder = tmp_path_factory.mktemp("world") / "tokenizer"
    write_tokenizer(folder, caption_corpus(300), merges=100)
    return folder


@pytest.fixture(scope="session")
def world_clip(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """The folder of a world-clip with random weights."""
    import torch

    from rewards.world.training import clip

    torch.manual_seed(0)
    size = len(clip.Tokens(tokenizer))
    folder = tmp_path_factory.mktemp("world") / "world-clip"
    clip.save(clip.build(size), size, folder)
    return folder
