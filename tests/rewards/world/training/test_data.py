"""Training batches: images, captions with one error, and softened images."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from rewards.world.captions import HIGH, LOW, STYLE_WORDS, Spec, parse_prompt
from rewards.world.claims import check_claims
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Scene
from rewards.world.training import data
from rewards.world.vision import detect_objects


def stated_differences(first: Scene, second: Scene) -> list[str]:
    """Names of the attributes in which two scenes with equally many objects differ."""
    kinds = [kind for kind in ("background", "relation") if getattr(first, kind) != getattr(second, kind)]
    for one, other in zip(first.items, second.items, strict=True):
        kinds += [k for k in ("shape", "colour", "size", "position") if getattr(one, k) != getattr(other, k)]
    return kinds


def test_a_near_miss_changes_one_attribute_and_each_about_equally_often() -> None:
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for scene in data.random_scenes(rng, 1500):
        before = Spec.of(scene)
        (kind,) = stated_differences(scene, data.near_miss(rng, scene))
        assert Spec.of(scene) == before  # the scene itself is unchanged
        counts[kind] += 1
    assert set(counts) == {"shape", "colour", "size", "background", "position", "relation"}
    assert all(counts[kind] > 0.14 * 1500 for kind in ("shape", "colour", "size", "background"))
    assert counts["position"] + counts["relation"] > 0.14 * 1500


def test_near_misses_change_both_objects_of_a_pair() -> None:
    rng = np.random.default_rng(1)
    changed: Counter[int] = Counter()
    for scene in data.random_scenes(rng, 200, pairs=1.0):
        missed = data.near_miss(rng, scene)
        changed.update(i for i in (0, 1) if scene.items[i] != missed.items[i])
    assert min(changed[0], changed[1]) > 40


def test_the_caption_of_a_near_miss_is_wrong() -> None:
    rng = np.random.default_rng(2)
    scenes = data.random_scenes(rng, 300)
    wrong = data.caption_batch(rng, [data.near_miss(rng, scene) for scene in scenes], detail=1.0)
    assert all(parse_prompt(text) != Spec.of(scene) for scene, text in zip(scenes, wrong, strict=True))


def test_a_near_miss_of_a_training_scene_has_no_reserved_combination() -> None:
    rng = np.random.default_rng(10)
    missed = [data.near_miss(rng, scene) for scene in data.random_scenes(rng, 500)]
    assert not any(scene.reserved() for scene in missed)


def test_a_near_miss_can_be_limited_to_some_attributes() -> None:
    rng = np.random.default_rng(12)
    for scene in data.random_scenes(rng, 100):
        (kind,) = stated_differences(scene, data.near_miss(rng, scene, of=("position", "relation")))
        assert kind == ("relation" if scene.relation else "position")


def test_a_false_caption_is_wrong_in_one_thing() -> None:
    """In an attribute, mostly position or shape, or in the style, which is then named as its opposite."""
    rng = np.random.default_rng(13)
    wrong: Counter[str] = Counter()
    for scene in data.random_scenes(rng, 800):
        (text,) = data.false_captions(rng, [scene])
        claimed, true = parse_prompt(text), Spec.of(scene)
        kinds = {kind for kind in ("background", "relation") if getattr(claimed, kind) is not None}
        differences = [kind for kind in kinds if getattr(claimed, kind) != getattr(true, kind)]
        for one, other in zip(claimed.items, true.items, strict=True):
            named = [k for k in ("shape", "colour", "size", "position") if getattr(one, k) is not None]
            differences += [k for k in named if getattr(one, k) != getattr(other, k)]
        assert len(differences) <= 1
        assert not claimed.reserved()
        wrong[differences[0] if differences else "style" if opposed(text, scene) else "unnamed"] += 1
    assert wrong["position"] + wrong["relation"] > 0.3 * 800
    assert wrong["shape"] > 0.2 * 800
    assert wrong["style"] > 0.08 * 800
    assert all(wrong[kind] > 0.02 * 800 for kind in ("colour", "size", "background"))
    assert wrong["unnamed"] < 0.1 * 800  # a caption may leave out the wrong attribute


def opposed(text: str, scene: Scene) -> bool:
    """Return whether the text has a style word that is the opposite of the scene's style."""
    words = set(re.findall(r"[a-z]+", text))
    return any(
        words
        & set(low if getattr(scene.style, axis) > HIGH else high if getattr(scene.style, axis) < LOW else ())
        for axis, (low, high) in STYLE_WORDS.items()
    )


def test_a_near_miss_has_another_image() -> None:
    rng = np.random.default_rng(11)
    scenes = [replace(scene, style=CLEAN) for scene in data.random_scenes(rng, 60)]
    unchanged = []
    for scene in scenes:
        missed = data.near_miss(rng, scene)
        if (render(scene) == render(missed)).all():
            unchanged += stated_differences(scene, missed)
    assert not unchanged


def test_random_scenes_are_of_the_given_split() -> None:
    rng = np.random.default_rng(3)
    assert not any(scene.reserved() for scene in data.random_scenes(rng, 300))
    assert all(scene.reserved() for scene in data.random_scenes(rng, 50, "reserved"))
    assert {len(scene.items) for scene in data.random_scenes(rng, 50, pairs=1.0)} == {2}


def test_a_batch_has_the_renders_as_tensors() -> None:
    scenes = data.random_scenes(np.random.default_rng(4), 5)
    images = data.render_batch(np.random.default_rng(5), scenes)
    assert images.shape == (5, 3, 64, 64)
    assert images.dtype == torch.float32
    seeds = np.random.default_rng(5).integers(2**31, size=5)
    for image, scene, seed in zip(images, scenes, seeds, strict=True):
        expected = torch.from_numpy(render(scene, int(seed))).permute(2, 0, 1) / 255
        torch.testing.assert_close(image, expected)


def test_each_image_of_a_batch_has_different_noise() -> None:
    rng = np.random.default_rng(6)
    scene = next(s for s in data.random_scenes(rng, 100) if s.style.cleanness < 0.5)
    first, second = data.render_batch(rng, [scene, scene])
    assert (first - second).std() > 0.01


@pytest.fixture(scope="module")
def softened() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(7)
    images = data.render_batch(rng, data.random_scenes(rng, 200))
    before = images.clone()
    after = data._soften(rng, images)
    assert torch.equal(images, before)
    return images, after


def test_softening_changes_half_of_the_images_and_keeps_the_range(
    softened: tuple[torch.Tensor, torch.Tensor],
) -> None:
    images, soft = softened
    assert soft.shape == images.shape
    assert soft.min() >= 0
    assert soft.max() <= 1
    unchanged = (soft == images).flatten(1).all(dim=1).float().mean()
    assert 0.4 < unchanged < 0.6


def test_softening_removes_only_fine_detail(
    softened: tuple[torch.Tensor, torch.Tensor],
) -> None:
    images, soft = softened
    changed = (soft != images).flatten(1).any(dim=1)
    before, after = images[changed], soft[changed]
    shape = (len(before), 3, 8, 8, 8, 8)
    means = [part.reshape(shape).mean(dim=(3, 5)) for part in (before, after)]
    assert (means[0] - means[1]).abs().mean() < 0.01

    def roughness(part: torch.Tensor) -> torch.Tensor:
        return (part[..., 1:] - part[..., :-1]).abs().mean(dim=(1, 2, 3))

    assert (roughness(after) < roughness(before)).float().mean() > 0.95


def test_both_kinds_of_softening_occur_and_keep_a_flat_image_flat() -> None:
    rng = np.random.default_rng(8)
    torch.testing.assert_close(
        data._soften(rng, torch.full((40, 3, 64, 64), 0.4)), torch.full((40, 3, 64, 64), 0.4)
    )
    slope = torch.linspace(0.2, 0.8, 64).expand(400, 3, 64, 64)
    soft = data._soften(rng, slope)
    kinds = {tuple(image[0, 5].mul(1e4).round().int().tolist()) for image in soft}
    assert len(kinds) == 3  # unchanged, blurred, and without high frequencies


def test_batches_are_on_torchs_default_device() -> None:
    rng = np.random.default_rng(9)
    scenes = data.random_scenes(rng, 2)
    with torch.device("meta"):
        assert data.render_batch(rng, scenes).device.type == "meta"


def test_the_image_of_a_near_miss_shows_the_changed_attributes() -> None:
    """The oracle confirms positions, sizes and relations of moved, scaled and rotated objects."""
    rng = np.random.default_rng(12)
    scenes = [replace(scene, style=CLEAN) for scene in data.random_scenes(rng, 150, pairs=0.5)]
    true = []
    for scene in scenes:
        missed = data.near_miss(rng, scene, misses=2)
        true += [claim.true for claim in check_claims(detect_objects(render(missed)), Spec.of(missed))]
    assert np.mean(true) > 0.98
