"""Training batches: pictures, wrong captions that are wrong in one thing, and softened pictures."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from rewards.world.captions import HIGH, LOW, STYLE_WORDS, read
from rewards.world.claims import answers
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Scene
from rewards.world.training import data
from rewards.world.training.evaluate import full_spec
from rewards.world.vision import look


def stated_differences(first: Scene, second: Scene) -> list[str]:
    """Names of the attributes in which two scenes of as many objects differ."""
    kinds = [kind for kind in ("background", "relation") if getattr(first, kind) != getattr(second, kind)]
    for one, other in zip(first.items, second.items, strict=True):
        kinds += [k for k in ("shape", "colour", "size", "position") if getattr(one, k) != getattr(other, k)]
    return kinds


def test_a_near_miss_changes_exactly_one_stated_thing_and_each_about_as_often() -> None:
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for scene in data.random_scenes(rng, 1500):
        before = full_spec(scene)
        (kind,) = stated_differences(scene, data.near_miss(rng, scene))
        assert full_spec(scene) == before  # the scene itself is left alone
        counts[kind] += 1
    assert set(counts) == {"shape", "colour", "size", "background", "position", "relation"}
    assert all(counts[kind] > 0.14 * 1500 for kind in ("shape", "colour", "size", "background"))
    assert counts["position"] + counts["relation"] > 0.14 * 1500


def test_both_objects_of_a_pair_are_missed() -> None:
    rng = np.random.default_rng(1)
    changed: Counter[int] = Counter()
    for scene in data.random_scenes(rng, 200, pairs=1.0):
        missed = data.near_miss(rng, scene)
        changed.update(i for i in (0, 1) if scene.items[i] != missed.items[i])
    assert min(changed[0], changed[1]) > 40


def test_the_caption_of_a_near_miss_is_wrong() -> None:
    rng = np.random.default_rng(2)
    scenes = data.random_scenes(rng, 300)
    wrong = data.captions(rng, [data.near_miss(rng, scene) for scene in scenes], detail=1.0)
    assert all(read(text) != full_spec(scene) for scene, text in zip(scenes, wrong, strict=True))


def test_a_near_miss_of_a_training_scene_holds_no_reserved_combination() -> None:
    rng = np.random.default_rng(10)
    missed = [data.near_miss(rng, scene) for scene in data.random_scenes(rng, 500)]
    assert not any(scene.reserved() for scene in missed)


def test_a_near_miss_can_be_kept_to_some_attributes() -> None:
    rng = np.random.default_rng(12)
    for scene in data.random_scenes(rng, 100):
        (kind,) = stated_differences(scene, data.near_miss(rng, scene, of=("position", "relation")))
        assert kind == ("relation" if scene.relation else "position")


def test_a_false_caption_is_wrong_in_one_thing() -> None:
    """In an attribute, mostly the place or the shape, or in the quality, then named as its opposite."""
    rng = np.random.default_rng(13)
    wrong: Counter[str] = Counter()
    for scene in data.random_scenes(rng, 800):
        (text,) = data.false_captions(rng, [scene])
        said, truth = read(text), full_spec(scene)
        kinds = {kind for kind in ("background", "relation") if getattr(said, kind) is not None}
        found = [kind for kind in kinds if getattr(said, kind) != getattr(truth, kind)]
        for one, other in zip(said.items, truth.items, strict=True):
            stated = [k for k in ("shape", "colour", "size", "position") if getattr(one, k) is not None]
            found += [k for k in stated if getattr(one, k) != getattr(other, k)]
        assert len(found) <= 1
        assert not said.reserved()
        wrong[found[0] if found else "quality" if opposed(text, scene) else "unsaid"] += 1
    assert wrong["position"] + wrong["relation"] > 0.3 * 800
    assert wrong["shape"] > 0.2 * 800
    assert wrong["quality"] > 0.08 * 800
    assert all(wrong[kind] > 0.02 * 800 for kind in ("colour", "size", "background"))
    assert wrong["unsaid"] < 0.1 * 800  # a caption need not say everything


def opposed(text: str, scene: Scene) -> bool:
    """Whether a style word of the text is the opposite of what the scene is."""
    words = set(re.findall(r"[a-z]+", text))
    return any(
        words
        & set(low if getattr(scene.style, axis) > HIGH else high if getattr(scene.style, axis) < LOW else ())
        for axis, (low, high) in STYLE_WORDS.items()
    )


def test_a_near_miss_is_another_picture_too() -> None:
    rng = np.random.default_rng(11)
    scenes = [replace(scene, style=CLEAN) for scene in data.random_scenes(rng, 60)]
    unseen = []
    for scene in scenes:
        missed = data.near_miss(rng, scene)
        if (render(scene) == render(missed)).all():
            unseen += stated_differences(scene, missed)
    assert not unseen


def test_scenes_are_of_the_split_asked_for() -> None:
    rng = np.random.default_rng(3)
    assert not any(scene.reserved() for scene in data.random_scenes(rng, 300))
    assert all(scene.reserved() for scene in data.random_scenes(rng, 50, "reserved"))
    assert {len(scene.items) for scene in data.random_scenes(rng, 50, pairs=1.0)} == {2}


def test_pictures_are_the_renders_as_tensors() -> None:
    scenes = data.random_scenes(np.random.default_rng(4), 5)
    images = data.pictures(np.random.default_rng(5), scenes)
    assert images.shape == (5, 3, 64, 64)
    assert images.dtype == torch.float32
    seeds = np.random.default_rng(5).integers(2**31, size=5)
    for image, scene, seed in zip(images, scenes, seeds, strict=True):
        expected = torch.from_numpy(render(scene, int(seed))).permute(2, 0, 1) / 255
        torch.testing.assert_close(image, expected)


def test_each_picture_of_a_batch_has_noise_of_its_own() -> None:
    rng = np.random.default_rng(6)
    scene = next(s for s in data.random_scenes(rng, 100) if s.style.cleanness < 0.5)
    first, second = data.pictures(rng, [scene, scene])
    assert (first - second).std() > 0.01


@pytest.fixture(scope="module")
def softened() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(7)
    images = data.pictures(rng, data.random_scenes(rng, 200))
    before = images.clone()
    after = data.soften(rng, images)
    assert torch.equal(images, before)
    return images, after


def test_softening_leaves_half_of_the_pictures_untouched_and_the_range_alone(
    softened: tuple[torch.Tensor, torch.Tensor],
) -> None:
    images, soft = softened
    assert soft.shape == images.shape
    assert soft.min() >= 0
    assert soft.max() <= 1
    untouched = (soft == images).flatten(1).all(dim=1).float().mean()
    assert 0.4 < untouched < 0.6


def test_softening_keeps_the_picture_and_takes_its_fine_detail(
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


def test_both_kinds_of_loss_occur_and_keep_a_flat_picture_flat() -> None:
    rng = np.random.default_rng(8)
    torch.testing.assert_close(
        data.soften(rng, torch.full((40, 3, 64, 64), 0.4)), torch.full((40, 3, 64, 64), 0.4)
    )
    slope = torch.linspace(0.2, 0.8, 64).expand(400, 3, 64, 64)
    soft = data.soften(rng, slope)
    kinds = {tuple(picture[0, 5].mul(1e4).round().int().tolist()) for picture in soft}
    assert len(kinds) == 3  # untouched, blurred, and without high frequencies


def test_data_is_made_on_torchs_default_device() -> None:
    rng = np.random.default_rng(9)
    scenes = data.random_scenes(rng, 2)
    with torch.device("meta"):
        assert data.pictures(rng, scenes).device.type == "meta"


def test_the_picture_of_a_near_miss_shows_what_the_near_miss_says() -> None:
    """Moved, scaled and turned objects are where their new names say, for the oracle too."""
    rng = np.random.default_rng(12)
    scenes = [replace(scene, style=CLEAN) for scene in data.random_scenes(rng, 150, pairs=0.5)]
    found = []
    for scene in scenes:
        missed = data.near_miss(rng, scene, misses=2)
        found += [answer.true for answer in answers(look(render(missed)), full_spec(missed))]
    assert np.mean(found) > 0.98
