"""Mistakes of captions: which kinds two scenes differ in, and the loss of finding the wrong words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rewards.world.scenes import CLEAN, Item, Scene
from rewards.world.training import data
from rewards.world.training.mistakes import CaptionMistakes, _caption_mistakes

KINDS = ["shape", "colour", "size", "background", "position", "count"]
"""The documented order."""

RED_RING = Scene((Item("ring", "red", "small", 16.0, 32.0, 11.0, "left"),), "white", CLEAN)
BLUE_RING = replace(RED_RING, items=(replace(RED_RING.items[0], colour="blue"),))


def named(described: Scene, shown: Scene) -> set[str]:
    wrong = _caption_mistakes(described, shown)
    return {kind for kind, is_wrong in zip(KINDS, wrong, strict=True) if is_wrong}


def test_a_scene_has_no_mistake_in_any_style() -> None:
    for scene in data.random_scenes(np.random.default_rng(0), 50):
        assert named(scene, replace(scene, style=CLEAN)) == set()


@pytest.mark.parametrize("kind", data.MISSES)
def test_a_near_miss_is_a_mistake_of_its_kind(kind: str) -> None:
    rng = np.random.default_rng(1)
    for scene in data.random_scenes(rng, 60, pairs=0.5):
        if not data.can_miss(scene, kind):
            continue
        missed = data.near_miss(rng, scene, of=(kind,))
        wrong = named(scene, missed)
        assert wrong == named(missed, scene)
        if kind == "count":
            assert "count" in wrong
        elif kind == "swap":
            assert wrong in ({"shape"}, {"colour"})
        else:
            assert wrong == {"position" if kind == "relation" else kind}


WORDS = ["[PAD]", "a", "red", "scarlet", "ring", "tiny", "beige", "upper", "on", "below", "picture", "vivid"]
VOCABULARY = {word: index for index, word in enumerate(WORDS)}


def test_only_words_that_can_be_wrong_have_a_kind() -> None:
    kinds = CaptionMistakes(4, VOCABULARY).kinds
    assert isinstance(kinds, torch.Tensor)
    spotted = {word: KINDS[kind] for word, kind in zip(WORDS, kinds.tolist(), strict=True) if kind >= 0}
    assert spotted == {
        "red": "colour", "scarlet": "colour", "ring": "shape", "tiny": "size",
        "beige": "background", "upper": "position", "below": "position",
    }  # fmt: skip


def test_right_answers_have_no_loss_and_each_wrong_one_costs() -> None:
    mistakes = CaptionMistakes(6, VOCABULARY)
    with torch.no_grad():
        for layer in (mistakes.text, mistakes.word):
            layer.weight.copy_(torch.eye(6)[: layer.out_features])
            layer.bias.zero_()
    ids = torch.tensor([[VOCABULARY[word] for word in ("a", "red", "ring")]] * 2)
    # "a red ring" of a blue ring, then of a red one.
    kinds = torch.tensor([[0.0, 1, 0, 0, 0, 0], [0.0] * 6])
    words = torch.tensor([[0.0, 1, 0], [0.0] * 3])

    def loss(kinds: torch.Tensor, words: torch.Tensor) -> float:
        states = torch.zeros(2, 3, 6)
        states[..., 0] = 60 * (words - 0.5)
        shown = [BLUE_RING, RED_RING]
        with torch.no_grad():
            return mistakes.loss(60 * (kinds - 0.5), states, ids, [RED_RING, RED_RING], shown).item()

    assert loss(kinds, words) < 1e-6
    for row, column in ((0, 1), (0, 2), (1, 1)):
        changed = words.clone()
        changed[row, column] = 1 - changed[row, column]
        assert loss(kinds, changed) > 1
    without_kind = words.clone()
    without_kind[:, 0] = 1
    assert loss(kinds, without_kind) < 1e-6
    for row, column in ((0, 1), (0, 0), (1, 5)):
        changed = kinds.clone()
        changed[row, column] = 1 - changed[row, column]
        assert loss(changed, words) > 1
