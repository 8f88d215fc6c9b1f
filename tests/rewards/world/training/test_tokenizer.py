"""The world's tokenizer: any text can be encoded and decoded, and ids fit the towers' pooling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.world.training.tokenizer import (
    CONTEXT_LENGTH,
    END,
    START,
    CaptionTokenizer,
    _caption_corpus,
    _learn_merges,
    _write_tokenizer,
)

TEXTS = [
    "a Large  red\tcircle, on a white background",
    "Größe 🦊🎨 中文 汉字 مرحبا بالعالم",
    "a \x00 b \x07 c \x1b",
    "👩\u200d👩\u200d👧 🇩🇪 \u200b \ufeff",
    "don't! 42 3.14 __init__ #!$%&()*",
]


@pytest.fixture(scope="module")
def tokens(tokenizer: Path) -> CaptionTokenizer:
    return CaptionTokenizer(tokenizer)


def squeezed(text: str) -> str:
    return "".join(text.lower().split())


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_encoded_without_unknown_tokens_and_decodes_back(
    tokens: CaptionTokenizer, text: str
) -> None:
    ids = tokens.tokenizer(text)["input_ids"]
    assert ids[0] == tokens.tokenizer.bos_token_id
    assert ids[-1] == tokens.tokenizer.eos_token_id
    # The end token is also the unknown token.
    assert not {tokens.tokenizer.bos_token_id, tokens.tokenizer.eos_token_id} & set(ids[1:-1])
    assert squeezed(tokens.tokenizer.decode(ids, skip_special_tokens=True)) == squeezed(text)


@settings(deadline=None, max_examples=100, database=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=20))
def test_random_text_has_no_unknown_tokens(tokens: CaptionTokenizer, text: str) -> None:
    ids = tokens.tokenizer(text, truncation=True, max_length=200)["input_ids"]
    assert tokens.tokenizer.unk_token_id not in ids[1:-1]


def test_captions_decode_with_their_spaces(tokens: CaptionTokenizer) -> None:
    text = "a huge turquoise disk in the upper left, dark blue backdrop, vivid"
    decoded = tokens.tokenizer.decode(tokens.tokenizer(text)["input_ids"], skip_special_tokens=True)
    assert decoded.replace(" ,", ",") == text


def test_the_end_token_has_the_highest_id_and_is_the_padding(
    tokens: CaptionTokenizer, tokenizer: Path
) -> None:
    vocabulary = json.loads((tokenizer / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(len(tokens)))
    assert (vocabulary[START], vocabulary[END]) == (len(tokens) - 2, len(tokens) - 1)
    ids = tokens(["a ring", "a huge turquoise disk"])
    assert ids.shape == (2, CONTEXT_LENGTH)
    for row in ids.tolist():
        first = row.index(len(tokens) - 1)
        assert set(row[first:]) == {len(tokens) - 1}
        assert row.index(max(row)) == first


def test_a_long_text_is_truncated_and_keeps_its_end_token(tokens: CaptionTokenizer) -> None:
    long, short = "a red circle and " * 30, "a ring"
    ids = tokens([long, short])
    assert ids.shape == (2, CONTEXT_LENGTH)
    end = tokens.tokenizer.eos_token_id
    assert ids[0].tolist().index(end) == CONTEXT_LENGTH - 1
    uncut = tokens.tokenizer(long, verbose=False)["input_ids"]
    assert ids[0, :-1].tolist() == uncut[: CONTEXT_LENGTH - 1]


def test_unpadded_ids_are_as_long_as_the_longest_text(tokens: CaptionTokenizer) -> None:
    texts = ["a ring", "a huge turquoise disk in the upper left"]
    ids = tokens(texts, pad=False)
    assert ids.shape == (2, max(len(tokens.tokenizer(text)["input_ids"]) for text in texts))
    assert ids.tolist() == tokens(texts)[:, : ids.shape[1]].tolist()


def test_there_are_as_many_merges_as_requested_and_they_shorten_captions(
    tokens: CaptionTokenizer, tmp_path: Path
) -> None:
    corpus = _caption_corpus(300)
    merges = _learn_merges(corpus, 100)
    assert len(set(merges)) == 100
    assert len(tokens) == 512 + 100 + 2
    _write_tokenizer(tmp_path, corpus, merges=0)
    letters = CaptionTokenizer(tmp_path)
    assert len(letters) == 514
    few, many = (
        sum(map(len, t.tokenizer(corpus[:50], verbose=False)["input_ids"])) for t in (tokens, letters)
    )
    assert few < 0.6 * many
    assert len(tokens.tokenizer("background")["input_ids"]) == 3


def test_the_same_texts_give_the_same_files(tokenizer: Path, tmp_path: Path) -> None:
    _write_tokenizer(tmp_path, _caption_corpus(300), merges=100)
    for file in tokenizer.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
