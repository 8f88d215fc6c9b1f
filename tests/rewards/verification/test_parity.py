"""Every reward agrees with its reference, and the comparison detects rewards that are broken on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import rewards
from rewards.builtin import BUILTIN
from rewards.verification.parity import BOUND, OWN_DEFINITION, REFERENCES, Parity, compare_with_reference
from rewards.verification.pictures import PROMPTS, load_photos, photo_folder

DEFINED_HERE = ["world-rule", "world-oracle"]

EXPECTED_MUTANTS = {
    "clip": {"mean and deviation", "antialias", "crop or pad", "activation", "no L2 norm", "token limit"},
    "hpsv2": {"mean and deviation", "antialias", "crop or pad", "activation", "no L2 norm", "token limit"},
    "world-siglip": {"mean and deviation", "antialias", "crop or pad", "no L2 norm", "tokens unpadded"},
    "world-blip": {"mean and deviation", "antialias", "crop or pad", "activation", "padding attended"},
    "clip-iqa": {"mean and deviation", "no L2 norm"},
    "jpeg-compressibility": set(),
}
"""Mutants whose bug must take part in scoring: a mutant that silently does nothing would prove nothing."""


RECIPES = {
    (record.entry, record.profile, str(record.options.get("convention", ""))): record.name
    for record in reversed(BUILTIN.values())
}
"""One reward per recipe: the others differ in their weights only, which are random here."""


@pytest.mark.parametrize("name", RECIPES.values())
def test_reward_agrees_with_its_reference_and_no_mutant_does(
    tmp_path: Path, photographs: dict[str, Image.Image], name: str
) -> None:
    row = compare_with_reference(rewards.info(name), photographs, PROMPTS, tmp_path)
    if name in DEFINED_HERE:
        assert row.reference == OWN_DEFINITION
        return
    assert row.disagreements == ()
    assert row.pairs == (len(photographs) + 1) * (len(PROMPTS) if rewards.info(name).uses_prompt else 1)
    assert row.error <= BOUND
    assert row.missed == []
    assert row.mutants.keys() >= EXPECTED_MUTANTS.get(name, set())
    assert row.rank > 0.99


def test_every_built_in_reward_class_has_a_reference() -> None:
    entries = {record.entry for name, record in BUILTIN.items() if name not in DEFINED_HERE}
    assert entries <= REFERENCES.keys()


@pytest.mark.parametrize(
    ("spread", "difference", "mutants", "missed"),
    [
        (2.0, 0.1, {}, []),  # a difference
        (0.0, 0.0, {}, []),  # equal scores, which would agree with anything
        (2.0, 1e-4, {"a": 1e-4, "b": 1.0}, ["a"]),  # a mutant that is not detected
    ],
)
def test_comparison_fails(
    spread: float, difference: float, mutants: dict[str, float], missed: list[str]
) -> None:
    row = Parity("clip", "clip-224", "it", "random", 4, spread, difference, mutants=mutants)
    assert row.missed == missed
    assert not row.ok


def test_comparison_passes_within_the_bound() -> None:
    assert Parity("clip", "clip-224", "it", "random", 4, spread=2.0, difference=1e-4).ok
    assert not Parity(
        "clip", "clip-224", "it", "random", 4, spread=2.0, difference=1e-4, disagreements=("size is 1",)
    ).ok


def test_without_photographs_rendered_images_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCBENCH_SHARED", str(tmp_path / "missing"))
    folder = photo_folder(tmp_path, 2)
    assert [image.size for image in load_photos(folder, 2).values()] == [(512, 512), (640, 427)]


def test_folder_with_too_few_images_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="has 1 images; give a folder with at least 2"):
        load_photos(tmp_path, 2)
