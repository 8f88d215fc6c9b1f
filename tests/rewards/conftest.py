"""Fixtures: rewards of their real architecture with tiny random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rewards

if TYPE_CHECKING:
    from rewards.base import Reward


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reward]:
    """Load a reward by name, with tiny random weights."""
    from rewards import registry  # not `rewards.load`: tests replace it by this fixture
    from rewards.verification.tiny.checkpoints import tiny_record, write_tiny_weights
    from rewards.weights.locate import content_id

    folder = tmp_path_factory.mktemp("zoo")

    def load(name: str) -> Reward:
        files = write_tiny_weights(rewards.info(name), folder / name)
        record = tiny_record(rewards.info(name))
        # With known hashes the weights count as published: they do not belong in the user's lock file.
        hashed = tuple(replace(file, sha256=content_id(file, files[file.key])) for file in record.weights)
        return registry.load(replace(record, weights=hashed), weights=files)

    return cache(load)


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """Write the tiny weights of a reward and return their paths by key."""
    from rewards.verification.tiny.checkpoints import write_tiny_weights

    folder = tmp_path_factory.mktemp("files")
    return lambda name: write_tiny_weights(rewards.info(name), folder / name)


@pytest.fixture
def changed_on_purpose() -> Callable[[], None]:
    """Remove the lock file, for a test that changes weights in place."""
    from rewards.weights.lock import WeightsLock

    return lambda: WeightsLock().path.unlink(missing_ok=True)
