"""Training batches: images, near misses, families of images and captions, and softened images."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from rewards.world.captions import STYLE_WORDS, Spec, caption, holds
from rewards.world.claims import check_claims
from rewards.world.render import render
from rewards.world.scenes import CLEAN, Item, Scene
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


@pytest.mark.parametrize("kind", data.MISSES)
def test_a_near_miss_of_each_kind_is_wrong_in_it_alone(kind: str) -> None:
    rng = np.random.default_rng(2)
    scenes = [s for s in data.random_scenes(rng, 200, pairs=0.6) if data.can_miss(s, kind)]
    assert len(scenes) > 60
    for scene in scenes:
        missed = data.near_miss(rng, scene, of=(kind,))
        assert missed.style == scene.style
        assert not missed.reserved()
        for described, shown in ((missed, scene), (scene, missed)):
            text = caption(rng, described, detail=1.0)
            assert holds(text, described)
            assert not holds(text, shown)
        if kind in data.ATTRIBUTES:
            assert stated_differences(scene, missed) == [kind]


def test_a_swap_exchanges_the_shapes_or_the_colours_of_two_objects() -> None:
    rng = np.random.default_rng(3)
    swapped: Counter[str] = Counter()
    for scene in data.random_scenes(rng, 200, pairs=1.0):
        if not data.can_miss(scene, "swap"):
            continue
        missed = data.near_miss(rng, scene, of=("swap",))
        first, second = scene.items
        (name,) = {
            name for name in ("shape", "colour") if getattr(missed.items[0], name) != getattr(first, name)
        }
        value, other = getattr(first, name), getattr(second, name)
        assert missed.items == (replace(first, **{name: other}), replace(second, **{name: value}))
        swapped[name] += 1
    assert min(swapped["shape"], swapped["colour"]) > 50


def test_a_wrong_count_adds_or_removes_an_object_and_keeps_the_first_and_the_background() -> None:
    rng = np.random.default_rng(4)
    for scene in data.random_scenes(rng, 100, pairs=0.5):
        missed = data.near_miss(rng, scene, of=("count",))
        assert len(missed.items) == 3 - len(scene.items)
        first, other = scene.items[0], missed.items[0]
        assert (other.shape, other.colour, missed.background) == (first.shape, first.colour, scene.background)


def test_only_pairs_with_distinct_results_can_be_swapped() -> None:
    red = Item("star", "red", "small", 16.0, 32.0, 11.0)
    pink = replace(red, colour="pink", x=48.0)

    def can_swap(*items: Item) -> bool:
        return data.can_miss(Scene(items, "white", CLEAN, "left of" if len(items) == 2 else None), "swap")

    assert not can_swap(red)
    # Exchanging colours would only move the same objects, which is a wrong relation.
    assert not can_swap(red, pink)
    assert can_swap(red, replace(pink, size="medium", radius=15.0))
    assert can_swap(red, replace(pink, shape="ring"))


def test_a_scene_can_only_have_errors_in_what_is_said_of_it() -> None:
    single, pair = (Scene.random(np.random.default_rng(5), pairs=pairs) for pairs in (0.0, 1.0))
    assert data.can_miss(single, "position")
    assert not data.can_miss(single, "relation")
    assert data.can_miss(pair, "relation")
    assert not data.can_miss(pair, "position")
    with pytest.raises(ValueError, match="can have 0 of the errors relation, expected 1"):
        data.near_miss(np.random.default_rng(6), single, of=("relation",))
    with pytest.raises(ValueError, match="can have 1 of the errors background, expected 2"):
        data.near_miss(np.random.default_rng(6), single, misses=2, of=("background",))


def test_a_near_miss_of_a_training_scene_has_no_reserved_combination() -> None:
    rng = np.random.default_rng(10)
    missed = [data.near_miss(rng, scene, misses=2) for scene in data.random_scenes(rng, 500)]
    assert not any(scene.reserved() for scene in missed)


def test_a_near_miss_can_be_limited_to_some_attributes() -> None:
    rng = np.random.default_rng(12)
    for scene in data.random_scenes(rng, 100):
        (kind,) = stated_differences(scene, data.near_miss(rng, scene, of=("position", "relation")))
        assert kind == ("relation" if scene.relation else "position")


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


def test_random_scenes_have_the_given_looks() -> None:
    scenes = data.random_scenes(np.random.default_rng(3), 5, looks=lambda _: CLEAN)
    assert {scene.style for scene in scenes} == {CLEAN}


def test_a_batch_has_the_renders_as_tensors() -> None:
    scenes = data.random_scenes(np.random.default_rng(4), 5)
    images = data.render_batch(scenes)
    assert images.shape == (5, 3, 64, 64)
    assert images.dtype == torch.float32
    for image, scene in zip(images, scenes, strict=True):
        torch.testing.assert_close(image, torch.from_numpy(render(scene)).permute(2, 0, 1) / 255)


def test_a_batch_can_have_half_of_its_images_softened() -> None:
    scenes = data.random_scenes(np.random.default_rng(5), 60)
    plain, soft = data.render_batch(scenes), data.render_batch(scenes, np.random.default_rng(6))
    assert 0.3 < (plain == soft).flatten(1).all(dim=1).float().mean() < 0.7


def is_plain(text: str) -> bool:
    words = {word for kinds in STYLE_WORDS.values() for some in kinds for word in some}
    return not words & set(re.findall("[a-z]+", text))


@pytest.fixture(scope="module")
def batches() -> list[data.AlignmentBatch]:
    rng = np.random.default_rng(20)
    return [data.AlignmentBatch.random(rng, 40) for _ in range(15)]


def test_a_batch_has_families_of_two_renders_of_a_scene_and_two_of_a_near_miss(
    batches: list[data.AlignmentBatch],
) -> None:
    for batch in batches:
        assert batch.images.shape == (40, 3, 64, 64)
        assert batch.matches.shape == (40, 40)
        assert len(batch.texts) == len(batch.scenes) == 40
        for start in range(0, 40, 4):
            family = batch.scenes[start : start + 4]
            first, again, miss, miss_again = (replace(scene, style=CLEAN) for scene in family)
            assert first == again
            assert miss == miss_again
            assert not Spec.of(first).holds(miss)
            assert len({scene.style for scene in family}) == 4


def test_near_misses_of_every_kind_occur(batches: list[data.AlignmentBatch]) -> None:
    kinds: Counter[str] = Counter()
    for scene, missed in ((b.scenes[i], b.scenes[i + 2]) for b in batches for i in range(0, 40, 4)):
        if len(scene.items) != len(missed.items):
            kinds["count"] += 1
        else:
            differences = stated_differences(scene, missed)
            kinds[differences[0] if len(differences) == 1 else "swap"] += 1
    assert set(kinds) == set(data.MISSES)
    assert kinds.most_common(1)[0][0] == "shape"


def test_plain_and_complete_captions_match_both_renders_of_their_scene_and_no_near_miss() -> None:
    batch = data.AlignmentBatch.random(np.random.default_rng(21), 60, style=0.0, detail=1.0)
    one_family = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).float()
    for start in range(0, 60, 4):
        assert torch.equal(batch.matches[start : start + 4, start : start + 4], one_family)


def test_a_caption_always_matches_its_own_image_and_style_words_need_their_style(
    batches: list[data.AlignmentBatch],
) -> None:
    both = {True: 0.0, False: 0.0}
    for batch in batches:
        assert batch.matches.diagonal().all()
        assert set(batch.matches.unique().tolist()) == {0.0, 1.0}
        for column, text in enumerate(batch.texts):
            twin = column ^ 1  # the other render of the same scene
            matched = bool(batch.matches[twin, column])
            assert matched or not is_plain(text)
            both[is_plain(text)] += matched / len(batches)
    assert both[False] < 0.4 * both[True]


def test_plain_captions_say_nothing_about_quality(batches: list[data.AlignmentBatch]) -> None:
    """Neither the images that have them, nor those that they match in a family, are better or worse."""
    own: dict[bool, list[float]] = {True: [], False: []}
    matched: dict[bool, list[float]] = {True: [], False: []}
    for batch in batches:
        for column, text in enumerate(batch.texts):
            own[is_plain(text)].append(batch.scenes[column].style.quality)
            if is_plain(text):
                for row in range(column - column % 4, column - column % 4 + 4):
                    matched[bool(batch.matches[row, column])].append(batch.scenes[row].style.quality)
    assert 0.4 < len(own[True]) / 600 < 0.65
    assert np.mean(own[True]) == pytest.approx(np.mean(own[False]), abs=0.03)
    assert np.mean(matched[True]) == pytest.approx(np.mean(matched[False]), abs=0.03)


def test_targets_are_distributions_over_what_matches(batches: list[data.AlignmentBatch]) -> None:
    for target, matches in zip(batches[0].targets, (batches[0].matches, batches[0].matches.T), strict=True):
        torch.testing.assert_close(target.sum(dim=1), torch.ones(40))
        assert torch.equal(target > 0, matches > 0)
        torch.testing.assert_close(target.amax(dim=1), 1 / matches.sum(dim=1))


def test_spread_is_the_variance_over_the_images_of_a_caption() -> None:
    matches = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    logits = torch.tensor([[3.0, 9.0, 9.0], [7.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    batch = data.AlignmentBatch([], torch.empty(0), [], matches)
    assert batch.spread(logits) == 4.0  # of 3 and 7; the other captions have one image each
    assert batch.spread(torch.where(matches > 0, 5.0, logits)) == 0
    alone = data.AlignmentBatch([], torch.empty(0), [], torch.eye(3))
    assert alone.spread(logits) == 0


@pytest.mark.parametrize(("levels", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_share_of_the_images_has_a_style_with_equal_axes(levels: float, share: float) -> None:
    batch = data.AlignmentBatch.random(np.random.default_rng(3), 200, levels=levels)
    equal = [len(set(astuple(scene.style))) == 1 for scene in batch.scenes]
    assert np.mean(equal) == pytest.approx(share, abs=0.12)


@pytest.fixture(scope="module")
def softened() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(7)
    images = data.render_batch(data.random_scenes(rng, 200))
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
        return (part[..., 1:] - part[..., :-1]).square().mean(dim=(1, 2, 3))

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
        assert data.render_batch(scenes).device.type == "meta"
        assert data.AlignmentBatch.random(rng, 4).matches.device.type == "meta"


def test_the_image_of_a_near_miss_shows_the_changed_attributes() -> None:
    """The oracle confirms positions, sizes and relations of moved, scaled and rotated objects."""
    rng = np.random.default_rng(12)
    scenes = [replace(scene, style=CLEAN) for scene in data.random_scenes(rng, 80, pairs=0.5)]
    true = []
    for scene in scenes:
        missed = data.near_miss(rng, scene, misses=2)
        true += [claim.true for claim in check_claims(detect_objects(render(missed)), Spec.of(missed))]
    assert np.mean(true) > 0.98
