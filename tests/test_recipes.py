"""The recipes in docs/ are configurations that this version takes, with the compute that they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.systems import read_system
from rewards.combine.terms import parse_mix
from textcraftor.config import make_config

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
TRAINING = sorted((RECIPES / "train").glob("*.toml"))
SYSTEMS = sorted((RECIPES / "systems").glob("*.toml"))

GIVEN = {"direct": {"pairs": "pairs"}, "raft": {"pairs": "pairs"}}
"""What a recipe leaves to the user."""


@pytest.mark.parametrize("file", TRAINING, ids=lambda file: file.stem)
def test_a_training_recipe_is_a_configuration(file: Path) -> None:
    made = make_config("sd15", file=file, **GIVEN.get(file.stem, {"prompts": "prompts.txt"}))
    assert parse_mix(made.rewards)
    assert made.batch % (made.micro_batch or made.batch) == 0


@pytest.mark.parametrize("file", SYSTEMS, ids=lambda file: file.stem)
def test_a_system_recipe_is_a_system(file: Path) -> None:
    system = read_system(file)
    assert system.pipeline.endswith("stable-diffusion-v1-5")
    assert system.trained_on is not None


def test_the_page_names_every_recipe() -> None:
    named = set(re.findall(r"`([a-z0-9-]+)`", (RECIPES / "README.md").read_text()))
    assert {file.stem for file in (*TRAINING, *SYSTEMS)} <= named


@pytest.mark.parametrize(
    ("name", "of_a_sample"),
    [
        ("textcraftor", 65),
        ("textcraftor-unet", 75),
        ("refl", 54),
        ("draft-lv", 68),
        ("alignprop", 81),
        ("conditioning", 115),
        ("direct", 9),
    ],
)
def test_recipes_of_equal_compute_are(name: str, of_a_sample: int) -> None:
    """A sample's compute as the ledger counts it on the embedded world, with four rewards."""
    own = GIVEN.get(name, {"prompts": "prompts.txt"})
    made = make_config("sd15", file=RECIPES / "train" / f"{name}.toml", **own)
    assert made.updates * made.batch * of_a_sample == pytest.approx(1000 * 32 * 65, rel=0.03)
