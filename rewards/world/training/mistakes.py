"""Auxiliary losses of the models that read image and caption together: which words of a caption are wrong.

From whole captions alone world-blip ignored the caption for 29,000 examples. With a loss for each word,
captions had an effect after 9,000.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.world.captions import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    POSITION_PHRASES,
    RELATION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
)
from rewards.world.scenes import Scene
from rewards.world.training.pretraining import WEIGHT

_EMPTY_WORDS = frozenset(("in", "the", "on", "at", "to", "of", "side", "corner"))
"""Words in phrases for positions that do not name one by themselves."""

_KINDS = ("shape", "colour", "size", "background", "position", "count")
"""Kinds of claims of a caption that can be wrong. A relation is a position."""


class CaptionMistakes(nn.Module):
    """Linear layers that find the mistakes of captions from a text encoder's states.

    A word counts as wrong if the caption is wrong in its kind: with one wrong shape of two, both are. The
    word "blue" of a dark blue background counts as an object's colour.

    Args:
        width: Width of the states.
        vocabulary: Piece -> id of the encoder's tokenizer.
    """

    def __init__(self, width: int, vocabulary: Mapping[str, int]) -> None:
        super().__init__()
        self.text, self.word = nn.Linear(width, len(_KINDS)), nn.Linear(width, 1)
        kinds = torch.full((max(vocabulary.values()) + 1,), -1)
        for word, kind in _word_kinds().items():
            if word in vocabulary:
                kinds[vocabulary[word]] = kind
        self.register_buffer("kinds", kinds, persistent=False)

    def loss(
        self, whole: Tensor, states: Tensor, ids: Tensor, described: list[Scene], shown: list[Scene]
    ) -> Tensor:
        """Return the loss of the kinds of mistakes of each text, and of whether each word is wrong.

        Args:
            whole: State (B, D) of the whole text.
            states: States (B, T, D) of the words.
            ids: Token ids (B, T).
            described: Scenes of the captions.
            shown: Scenes of the images.
        """
        rows = [_caption_mistakes(*pair) for pair in zip(described, shown, strict=True)]
        wrong = torch.tensor(rows, dtype=torch.float32, device=states.device)
        missed = F.binary_cross_entropy_with_logits(self.text(whole), wrong, reduction="sum") / len(wrong)
        kind = self.kinds[ids]  # type: ignore[index]
        target = wrong.gather(1, kind.clamp(min=0))
        by_word = F.binary_cross_entropy_with_logits(self.word(states)[..., 0], target, reduction="none")
        return missed + WEIGHT * by_word[kind >= 0].mean()


def _caption_mistakes(described: Scene, shown: Scene) -> list[bool]:
    """Return for shape, colour, size, background, position and count whether two scenes differ in it."""
    count = len(described.items) != len(shown.items)
    pairs = list(zip(described.items, shown.items, strict=not count))
    items = [any(getattr(a, name) != getattr(b, name) for a, b in pairs) for name in _KINDS[:3]]
    positions = [(scene.items[0].position, scene.relation) for scene in (described, shown)]
    return [*items, described.background != shown.background, positions[0] != positions[1], count]


def _word_kinds() -> dict[str, int]:
    """Word -> index of its kind in `_KINDS`."""
    kinds = {word: 0 for words in SHAPE_WORDS.values() for word in " ".join(words).split()}
    kinds |= {word: 1 for words in COLOUR_WORDS.values() for word in words}
    kinds |= {word: 2 for words in SIZE_WORDS.values() for word in words}
    kinds |= {words.split()[0]: 3 for many in BACKGROUND_WORDS.values() for words in many}
    return kinds | {
        word: 4
        for phrases in (POSITION_PHRASES | RELATION_PHRASES).values()
        for word in " ".join(phrases).split()
        if word not in _EMPTY_WORDS
    }
