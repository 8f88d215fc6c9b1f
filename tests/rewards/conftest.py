"""Every reward with tiny random weights of its own architecture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rewards

if TYPE_CHECKING:
    from rewards.base import Reward


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reward]:
    """Loads a reward by its name, with its weights replaced by tiny random ones."""
    from rewards.verification.tiny.checkpoints import load_tiny

    folder = tmp_path_factory.mktemp("zoo")
    return cache(lambda name: load_tiny(rewards.info(name), folder / name))


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """Writes the tiny weights of a reward and returns their paths by key."""
    from rewards.verification.tiny.checkpoints import write_tiny_weights

    folder = tmp_path_factory.mktemp("files")
    return lambda name: write_tiny_weights(rewards.info(name), folder / name)


@pytest.fixture
def changed_on_purpose() -> Callable[[], None]:
    """Forgets what weights were at their first use, for a test that changes them where they are."""
    from rewards.weights.lock import WeightsLock

    return lambda: WeightsLock().path.unlink(missing_ok=True)
