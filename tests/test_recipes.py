"""The recipes in docs/recipes are valid configurations with the compute that they state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.systems import _read_system
from rewards.combine.terms import parse_mix
from textcraftor.config import make_config

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
TRAINING = sorted((RECIPES / "train").glob("*.toml"))
SYSTEMS = sorted((RECIPES / "systems").glob("*.toml"))

FOLDERS = {"direct": {"data.pairs": "pairs"}, "raft": {"data.pairs": "pairs"}}
"""Settings that a user of the recipe adds; all other recipes need prompts."""


@pytest.mark.parametrize("file", TRAINING, ids=lambda file: file.stem)
def test_training_recipes_are_valid_configurations(file: Path) -> None:
    config = make_config("sd15", file=file, overrides=FOLDERS.get(file.stem, {"data.prompts": "prompts.txt"}))
    assert parse_mix(config.rewards.mix)
    assert config.optimiser.batch % (config.memory.micro_batch or config.optimiser.batch) == 0


@pytest.mark.parametrize("file", SYSTEMS, ids=lambda file: file.stem)
def test_system_recipes_are_valid_systems(file: Path) -> None:
    system = _read_system(file)
    assert system.pipeline.endswith("stable-diffusion-v1-5")
    assert system.trained_on is not None


def test_page_names_every_recipe() -> None:
    named = set(re.findall(r"`([a-z0-9-]+)`", (RECIPES / "README.md").read_text()))
    assert {file.stem for file in (*TRAINING, *SYSTEMS)} <= named


@pytest.mark.parametrize(
    ("name", "compute_per_sample"),
    [
        ("textcraftor", 65),
        ("textcraftor-balanced", 105),
        ("textcraftor-unet", 75),
        ("refl", 54),
        ("draft-lv", 68),
        ("alignprop", 81),
        ("conditioning", 115),
        ("direct", 9),
    ],
)
def test_recipes_use_equal_compute(name: str, compute_per_sample: int) -> None:
    """The compute per sample is the ledger's on the embedded world, with four rewards."""
    settings = FOLDERS.get(name, {"data.prompts": "prompts.txt"})
    config = make_config("sd15", file=RECIPES / "train" / f"{name}.toml", overrides=settings)
    assert config.optimiser.updates * config.optimiser.batch * compute_per_sample == pytest.approx(
        1000 * 32 * 65, rel=0.03
    )
