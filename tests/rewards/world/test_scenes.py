"""Random scenes: reproducible, with all names, and in the right split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from itertools import product

import numpy as np
import pytest

from rewards.world.scenes import (
    BACKGROUNDS,
    CLEAN,
    COLOURS,
    POSITIONS,
    RELATIONS,
    RESERVED,
    SHAPES,
    SIZE_PX,
    SIZES,
    Scene,
    SceneSplit,
    Style,
)


def sample(count: int, split: SceneSplit = "any", pairs: float = 0.3, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [Scene.random(rng, split, pairs) for _ in range(count)]


def test_a_seed_determines_the_scenes() -> None:
    assert sample(20, seed=3) == sample(20, seed=3)
    assert sample(20, seed=3) != sample(20, seed=4)


@pytest.mark.parametrize("pairs", [0.0, 1.0])
def test_only_reserved_scenes_have_a_reserved_combination(pairs: float) -> None:
    def has_one(scene: Scene) -> bool:
        return any((i.shape, i.colour, scene.background) in RESERVED for i in scene.items)

    assert not any(has_one(scene) for scene in sample(1000, "train", pairs))
    assert all(has_one(scene) for scene in sample(200, "reserved", pairs))


def test_a_tenth_of_the_combinations_is_reserved() -> None:
    count = len(SHAPES) * len(COLOURS) * len(BACKGROUNDS)
    assert len(RESERVED) / count == pytest.approx(0.1, abs=0.02)
    assert np.mean([scene.reserved() for scene in sample(2000, "any", 0.0)]) == pytest.approx(0.1, abs=0.025)


def test_only_triples_are_new_in_the_reserved_split() -> None:
    """Each name, and each pair of names, occurs in training."""
    triples = set(product(SHAPES, COLOURS, BACKGROUNDS))
    trained = triples - RESERVED
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert {(t[left], t[right]) for t in trained} == {(t[left], t[right]) for t in triples}
    for index, names in enumerate((SHAPES, COLOURS, BACKGROUNDS)):
        assert {triple[index] for triple in RESERVED} == set(names)


def test_every_name_occurs_in_training_about_equally_often() -> None:
    scenes = sample(2000, "train")
    items = [item for scene in scenes for item in scene.items]
    single = [scene.items[0] for scene in scenes if len(scene.items) == 1]
    names_of = {
        "shape": ([item.shape for item in items], SHAPES),
        "colour": ([item.colour for item in items], COLOURS),
        "size": ([item.size for item in single], SIZES),
        "position": ([item.position for item in single], POSITIONS),
        "background": ([scene.background for scene in scenes], BACKGROUNDS),
        "relation": ([scene.relation for scene in scenes if scene.relation], RELATIONS),
    }
    for kind, (sampled, names) in names_of.items():
        counts = {name: sampled.count(name) for name in names}
        assert sum(counts.values()) == len(sampled), kind
        assert min(counts.values()) > 0.6 * len(sampled) / len(names), (kind, counts)


def test_pairs_have_the_given_share_two_different_objects_and_a_true_relation() -> None:
    scenes = sample(1000, "any", pairs=0.3)
    pairs = [scene for scene in scenes if len(scene.items) == 2]
    assert len(pairs) / len(scenes) == pytest.approx(0.3, abs=0.05)
    for scene in pairs:
        first, second = scene.items
        assert (first.shape, first.colour) != (second.shape, second.colour)
        assert scene.relation is not None
        column, row = RELATIONS[scene.relation]
        assert (first.x - second.x) * column + (first.y - second.y) * row > 30
    assert all(scene.relation is None for scene in scenes if len(scene.items) == 1)


def test_pixels_agree_with_names_and_stay_in_the_image() -> None:
    for scene in sample(1000):
        for item in scene.items:
            assert 0 < item.x < SIZE_PX
            assert 0 < item.y < SIZE_PX
            nearest = min(SIZES, key=lambda name: abs(SIZES[name] - item.radius))
            assert nearest == item.size
            if item.position:
                column, row = POSITIONS[item.position]
                for value, side in ((item.x, column), (item.y, row)):
                    off = value - SIZE_PX / 2
                    assert abs(off) < 2 if side == 0 else off * side > 7


def test_most_styles_are_mediocre_some_are_good_and_all_are_in_range() -> None:
    styles = [scene.style for scene in sample(1500)]
    axes = np.array([astuple(style) for style in styles])
    assert axes.shape == (1500, 4)
    assert axes.min() >= 0
    assert axes.max() <= 1
    quality = np.array([style.quality for style in styles])
    np.testing.assert_allclose(quality, axes.mean(axis=1))
    assert 0.35 < np.median(quality) < 0.48
    assert 0.002 < (quality > 0.75).mean() < 0.03


def test_the_axes_of_styles_that_go_together_are_a_little_correlated() -> None:
    rng = np.random.default_rng(0)
    axes = np.array([astuple(Style.together(rng)) for _ in range(4000)])
    correlation = np.corrcoef(axes.T)[~np.eye(4, dtype=bool)]
    assert correlation.min() > 0.2
    assert correlation.max() < 0.5
    assert (axes.min(), axes.max()) == (0, 1)


@pytest.mark.parametrize("looks", [Style.random, Style.even])
def test_the_axes_of_a_style_are_independent(looks: Callable[[np.random.Generator], Style]) -> None:
    rng = np.random.default_rng(0)
    among_others = ~np.eye(4, dtype=bool)
    axes = np.array([astuple(looks(rng)) for _ in range(4000)])
    assert np.abs(np.corrcoef(axes.T)[among_others]).max() < 0.06


def test_even_styles_are_uniform_and_scenes_can_have_them() -> None:
    rng = np.random.default_rng(1)
    styles = [Scene.random(rng, looks=Style.even).style for _ in range(1500)]
    for values in np.array([astuple(style) for style in styles]).T:
        shares, _ = np.histogram(values, bins=5, range=(0.0, 1.0))
        np.testing.assert_allclose(shares / 1500, 0.2, atol=0.04)
    fixed = Scene.random(rng, looks=lambda _: CLEAN)
    assert fixed.style == CLEAN


def test_the_clean_style_has_no_effect() -> None:
    assert (CLEAN.shading, CLEAN.depth, CLEAN.backdrop) == (0, 0, 0)


def test_no_colour_is_clipped() -> None:
    for rgb in (*COLOURS.values(), *BACKGROUNDS.values()):
        assert all(0.02 < value < 0.98 for value in rgb)
