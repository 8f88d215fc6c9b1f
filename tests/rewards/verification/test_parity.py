"""Every reward against its second computation, and the comparison against rewards that are broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import rewards
from rewards.builtin import BUILTIN
from rewards.verification.parity import BOUND, OWN, REFERENCES, Parity, compare
from rewards.verification.pictures import PROMPTS, pictures, write_renders

OWN_DEFINITIONS = ["world-rule", "world-oracle"]

MET = {
    "clip": {"mean and deviation", "antialias", "crop or pad", "activation", "no L2 norm", "token limit"},
    "hpsv2": {"mean and deviation", "antialias", "crop or pad", "activation", "no L2 norm", "token limit"},
    "world-siglip": {"mean and deviation", "antialias", "crop or pad", "no L2 norm", "tokens unpadded"},
    "world-blip": {"mean and deviation", "antialias", "crop or pad", "activation", "padding attended"},
    "clip-iqa": {"mean and deviation", "no L2 norm"},
    "jpeg-compressibility": set(),
}
"""Mutants that a reward must at least have met, so that none goes missing unnoticed."""


RECIPES = {
    (record.entry, record.profile, str(record.options.get("convention", ""))): record.name
    for record in reversed(BUILTIN.values())
}
"""A reward of each recipe: others differ in their weights alone, which are random here."""


@pytest.mark.parametrize("name", RECIPES.values())
def test_each_reward_is_its_second_computation_and_no_mutant_is(
    tmp_path: Path, photographs: dict[str, Image.Image], name: str
) -> None:
    row = compare(rewards.info(name), photographs, PROMPTS, tmp_path)
    if name in OWN_DEFINITIONS:
        assert row.reference == OWN
        return
    assert row.pairs == len(photographs) * (len(PROMPTS) if rewards.info(name).uses_prompt else 1)
    assert row.error <= BOUND
    assert row.missed == []
    assert row.mutants.keys() >= MET.get(name, set())
    assert row.rank > 0.99


def test_every_class_of_a_built_in_reward_has_a_reference() -> None:
    entries = {record.entry for name, record in BUILTIN.items() if name not in OWN_DEFINITIONS}
    assert entries <= REFERENCES.keys()


def test_a_difference_or_an_unnoticed_mutant_is_no_pass() -> None:
    fine = Parity("clip", "clip-224", "it", "random", 4, spread=2.0, difference=0.001)
    assert fine.ok
    assert not Parity(
        "clip", "clip-224", "it", "random", 4, spread=0.0, difference=0.0
    ).ok  # nothing was told
    assert not Parity("clip", "clip-224", "it", "random", 4, spread=2.0, difference=0.1).ok
    unnoticed = Parity("clip", "clip-224", "it", "random", 4, 2.0, 0.001, mutants={"a": 0.001, "b": 1.0})
    assert unnoticed.missed == ["a"]
    assert not unnoticed.ok


def test_a_folder_with_too_few_pictures_is_refused(tmp_path: Path) -> None:
    write_renders(tmp_path / "renders", 2)
    assert [picture.size for picture in pictures(tmp_path, 2).values()] == [(512, 512), (640, 427)]
    with pytest.raises(ValueError, match="has 2 pictures; give a folder with at least 3"):
        pictures(tmp_path, 3)
