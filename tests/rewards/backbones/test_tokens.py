from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rewards.backbones.tokens import OpenClipTokenizer, Tokenizer, clip_tokenizer


@pytest.fixture(params=["open_clip", "transformers"])
def tokenizer(request: pytest.FixtureRequest, tiny_files: Callable[[str], dict[str, Path]]) -> Tokenizer:
    if request.param == "open_clip":
        return OpenClipTokenizer(limit=48)
    return clip_tokenizer(tiny_files("world-clip")["tokenizer"], limit=48)


def test_prompts_are_padded_or_cut_to_the_limit(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer(["a b", "a " * 60, ""])
    assert ids.shape == mask.shape == (3, 48)
    assert mask.sum(dim=1).tolist() == [4, 48, 2]
    end = ids[0, 3].item()
    assert ids[1, -1] == end
    # Pooling locates the end token by argmax: no id may be higher, and padding must come after it.
    assert ids.max() == end
    assert ids.argmax(dim=1).tolist() == [3, 47, 1]


def test_lengths_are_counted_before_cutting(tokenizer: Tokenizer) -> None:
    assert tokenizer.lengths(["", "a", "a " * 46, "a " * 47]) == [2, 3, 48, 49]


def test_open_clip_and_transformers_give_identical_ids(shared_data: Path) -> None:
    vocabulary = json.loads((shared_data / "vocab/clip_vocab.json").read_text(encoding="utf-8"))
    ids = OpenClipTokenizer()(["an astronaut riding a horse"]).ids[0, :7].tolist()
    words = [
        "<|startoftext|>",
        *(f"{word}</w>" for word in ("an", "astronaut", "riding", "a", "horse")),
        "<|endoftext|>",
    ]
    assert ids == [vocabulary[word] for word in words]
