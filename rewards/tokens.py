"""From prompts to token ids, and how many tokens a prompt has before it is cut. B batch, T tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

CLIP_LIMIT = 77


class Tokens(NamedTuple):
    """``ids`` (B, T) int64 and ``mask`` (B, T), 1 for text and 0 for padding."""

    ids: Tensor
    mask: Tensor


class Tokenizer(Protocol):
    """Cuts a prompt to ``limit`` tokens, the special ones included, and pads it to that length."""

    limit: int

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Ids and mask of the prompts."""
        ...

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, uncut, the special ones included."""
        ...


class OpenClipTokenizer:
    """The vocabulary of OpenAI's CLIP, which open_clip ships; padded with 0."""

    def __init__(self, limit: int = CLIP_LIMIT) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.limit = limit
        self._tokenizer = SimpleTokenizer(context_length=limit)

    def __deepcopy__(self, _: object) -> OpenClipTokenizer:
        return self  # it never changes, and its tables are long

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        ids = self._tokenizer(list(prompts))
        kept = torch.tensor([min(length, self.limit) for length in self.lengths(prompts)])
        return Tokens(ids, (torch.arange(self.limit) < kept[:, None]).long())

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(self._tokenizer.encode(prompt)) + 2 for prompt in prompts]


class TransformersTokenizer:
    """A tokenizer of the transformers library."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.limit = limit
        self._tokenizer = tokenizer

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        batch = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.limit, return_tensors="pt"
        )
        return Tokens(batch["input_ids"], batch["attention_mask"])

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        if not prompts:  # of which the library makes no empty list
            return []
        # not verbose: it warns of texts that are too long, and counting those is what this is for
        return [len(ids) for ids in self._tokenizer(list(prompts), verbose=False)["input_ids"]]


def clip_tokenizer(folder: Path, limit: int) -> TransformersTokenizer:
    """The CLIP tokenizer in a folder of transformers' layout."""
    from transformers import CLIPTokenizer

    return TransformersTokenizer(CLIPTokenizer.from_pretrained(folder, local_files_only=True), limit)


def bert_tokenizer(vocabulary: Path, limit: int) -> TransformersTokenizer:
    """Lower-case WordPiece with the vocabulary in a text file, one piece a line."""
    from transformers import BertTokenizer

    return TransformersTokenizer(BertTokenizer(vocab=str(vocabulary)), limit)
