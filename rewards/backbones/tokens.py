"""From prompts to token ids, and how many tokens a prompt has before it is cut. B batch, T tokens."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rewards.backbones.sentencepiece import SPACE, unigram_tokenizer
from tcbench.errors import MismatchError

CLIP_LIMIT = 77
PUNCTUATION = str.maketrans("", "", string.punctuation)


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
    """A tokenizer of open_clip: OpenAI's vocabulary, which it ships, padded with 0; or that of a ``folder``.

    ``settings`` are open_clip's "tokenizer_kwargs", such as how a text is cleaned.
    """

    def __init__(self, limit: int = CLIP_LIMIT, folder: Path | None = None, **settings: Any) -> None:
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

        self.limit = limit
        if folder is None:
            self._tokenizer = SimpleTokenizer(context_length=limit, **settings)
            self._length: Callable[[str], int] = lambda prompt: len(self._tokenizer.encode(prompt)) + 2
        else:
            self._tokenizer = HFTokenizer(str(folder), context_length=limit, **settings)
            clean, uncut = self._tokenizer.clean_fn, self._tokenizer.tokenizer
            self._length = lambda prompt: len(uncut(clean(prompt), verbose=False)["input_ids"])

    def __deepcopy__(self, _: object) -> OpenClipTokenizer:
        return self  # it never changes, and its tables are long

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        ids = self._tokenizer(list(prompts))
        kept = torch.tensor([min(length, self.limit) for length in self.lengths(prompts)])
        return Tokens(ids, (torch.arange(self.limit) < kept[:, None]).long())

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [self._length(prompt) for prompt in prompts]


class TransformersTokenizer:
    """A tokenizer of the transformers library, of texts that ``clean`` made of the prompts."""

    def __init__(self, tokenizer: Any, limit: int, clean: Callable[[str], str] = str) -> None:
        self.limit = limit
        self._tokenizer, self._clean = tokenizer, clean

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        texts = [self._clean(prompt) for prompt in prompts]
        batch = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.limit, return_tensors="pt"
        )
        return Tokens(batch["input_ids"], batch["attention_mask"])

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        # not verbose: it warns of texts that are too long, and counting those is what this is for
        texts = [self._clean(prompt) for prompt in prompts]
        return [len(ids) for ids in self._tokenizer(texts, verbose=False)["input_ids"]]


def transformers_tokenizer(folder: Path, limit: int) -> TransformersTokenizer:
    """The tokenizer in a folder of transformers' layout, of the kind that it says. Raises `MismatchError`."""
    path = folder / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        kind = settings.get("tokenizer_class", "CLIPTokenizer")  # old folders of CLIPs do not say
    except (OSError, ValueError, AttributeError) as error:
        raise MismatchError(f"{path} cannot be read ({error}); fetch the model's tokenizer") from error
    make = TOKENIZERS.get(str(kind).removesuffix("Fast"))
    if make is None:
        raise MismatchError(f"{path} names a {kind}; known are {', '.join(TOKENIZERS)}")
    return make(folder, limit)


def clip_tokenizer(folder: Path, limit: int) -> TransformersTokenizer:
    """The CLIP tokenizer in a folder of transformers' layout. Raises `MismatchError`."""
    from transformers import CLIPTokenizer

    with _named(folder):
        return TransformersTokenizer(CLIPTokenizer.from_pretrained(folder, local_files_only=True), limit)


def siglip_tokenizer(folder: Path, limit: int) -> TransformersTokenizer:
    """SigLIP's: pieces of the text without capitals and punctuation; ends with, and is padded with, </s>."""
    from transformers import PreTrainedTokenizerFast

    pieces = unigram_tokenizer(folder / "spiece.model", "</s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    return TransformersTokenizer(tokenizer, limit, canonical)


def canonical(prompt: str) -> str:
    """The text as SigLIP was trained on it (transformers' SiglipTokenizer): a space marks its beginning."""
    text = (SPACE + prompt.replace(SPACE, " ")).lower().translate(PUNCTUATION)
    return re.sub(r"\s+", " ", text).strip()


def siglip2_tokenizer(folder: Path, limit: int) -> TransformersTokenizer:
    """SigLIP 2's: Gemma's vocabulary on the text in small letters, as it was trained; ends with <eos>."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = [("<eos>", pieces.token_to_id("<eos>"))]
    pieces.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=end)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", padding_side="right"
    )
    return TransformersTokenizer(tokenizer, limit, str.lower)


def bert_tokenizer(vocabulary: Path, limit: int) -> TransformersTokenizer:
    """Lower-case WordPiece with the vocabulary in a text file, one piece a line. Raises `MismatchError`."""
    from transformers import BertTokenizer

    with _named(vocabulary):
        lacking = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - set(vocabulary.read_text(encoding="utf-8").split())
        if lacking:  # of which transformers makes up its own
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        return TransformersTokenizer(BertTokenizer(vocab=str(vocabulary)), limit)


TOKENIZERS: Mapping[str, Callable[[Path, int], TransformersTokenizer]] = {
    "CLIPTokenizer": clip_tokenizer,
    "SiglipTokenizer": siglip_tokenizer,
    "Siglip2Tokenizer": siglip2_tokenizer,
    "GemmaTokenizer": siglip2_tokenizer,
}
"""What makes the tokenizer of a class of transformers from a folder and a limit."""


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the tokenizers, which are bare `Exception`s, say what was read."""
    try:
        yield
    except Exception as error:
        raise MismatchError(f"{path} cannot be read as a tokenizer ({error}); fetch it again") from error
