"""Every reward agrees with its reference, and the comparison detects rewards that are broken on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

import rewards
from rewards.builtin import BUILTIN
from rewards.verification import parity
from rewards.verification.parity import (
    BOUND,
    NO_FACTS,
    OWN_DEFINITION,
    REFERENCES,
    Parity,
    compare_with_official,
    compare_with_reference,
)
from rewards.verification.pictures import PROMPTS, load_photos, photo_folder

DEFINED_HERE = ["world-rule", "world-oracle"]

EXPECTED_MUTANTS = {
    "clip": {"mean and deviation", "antialias", "crop or pad", "activation", "no L2 norm", "token limit"},
    "hpsv2": {"mean and deviation", "antialias", "crop or pad", "activation", "no L2 norm", "token limit"},
    "world-siglip": {"mean and deviation", "antialias", "crop or pad", "no L2 norm", "tokens unpadded"},
    "world-blip": {"mean and deviation", "antialias", "crop or pad", "activation", "padding attended"},
    "world-vqa": {"mean and deviation", "antialias", "crop or pad", "activation"},
    "clip-iqa": {"mean and deviation", "no L2 norm"},
    "jpeg-compressibility": set(),
    "colourfulness": set(),
    "darkness": set(),
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
    assert row.bound == BOUND
    assert row.disagreements == ()
    assert row.pairs == (len(photographs) + 1) * (len(PROMPTS) if rewards.info(name).uses_prompt else 1)
    assert row.error <= BOUND
    assert row.missed == []
    assert row.mutants.keys() >= EXPECTED_MUTANTS.get(name, set())
    assert row.rank > 0.99


def test_every_built_in_reward_class_has_a_reference() -> None:
    entries = {record.entry for name, record in BUILTIN.items() if name not in DEFINED_HERE}
    assert entries <= REFERENCES.keys()


def test_reward_without_published_facts_is_not_called_ok(
    tmp_path: Path, photographs: dict[str, Image.Image]
) -> None:
    row = compare_with_reference(replace(rewards.info("clip"), name="mine"), photographs, PROMPTS, tmp_path)
    assert (row.reference, row.pairs) == (NO_FACTS, 0)
    assert not row.checked
    assert not row.ok


def test_official_code_and_ours_get_the_pixels_as_they_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 60, 90, 3), dtype=np.uint8)
    # The comparison gives every second image as a tensor, which has no orientation.
    names, turned = ["turned.jpg", "upright.jpg"], Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for name, array, exif in zip(names, levels, (turned, Image.Exif()), strict=True):
        Image.fromarray(array).resize((300, 200)).save(tmp_path / name, exif=exif)
    record = rewards.info("world-hps")

    def score(paths: list[Path], prompts: list[str]) -> dict[str, Any]:
        stored = [Image.fromarray(np.asarray(Image.open(path))) for path in paths]
        columns = [rewards.load(record).score(stored, [text] * len(stored)).tolist() for text in prompts]
        return {"scores": np.transpose(columns).tolist(), "versions": {"hpsv2": "1"}}

    checkpoint = SimpleNamespace(score=score, package="hpsv2", record=record, files=None)
    monkeypatch.setattr(parity, "OFFICIAL", {record.entry: lambda *_, **__: checkpoint})
    monkeypatch.setattr(parity, "MUTANTS", {})
    row = compare_with_official(record, tmp_path, names, PROMPTS[:2], tmp_path, full=False)
    assert row.ok, row


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
