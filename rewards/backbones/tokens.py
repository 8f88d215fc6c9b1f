"""Tokenizers: from prompts to token ids, and the length of a prompt before it is cut. B batch, T tokens."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rewards.backbones.processor import read_json
from tcbench.errors import MismatchError

CLIP_LIMIT = 77
"""Tokens that CLIP's text encoder reads."""

_SPACE = "▁"
"""Sentencepiece's mark for a space."""
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Tokens(NamedTuple):
    """Tokens of B prompts."""

    ids: Tensor
    """Token ids (B, T), int64."""
    mask: Tensor
    """1 for text, 0 for padding, (B, T)."""

    def needed(self, pooling: str, end: int) -> int:
        """Return how many tokens a causal text tower has to read: up to the last position that becomes an
        embedding.

        Later tokens, the padding above all, change no state before them, so without them all embeddings are
        the same except for rounding.

        Args:
            pooling: Which state is the embedding: that of the largest id ("argmax"), of the first ``end``
                ("eos"), or of the first token ("first"); for any other all tokens are needed.
            end: Id of the end token.
        """
        if pooling == "first":
            return 1
        if pooling not in ("argmax", "eos"):
            return self.ids.shape[1]
        values = self.ids if pooling == "argmax" else torch.eq(self.ids, end).int()
        return int(values.argmax(dim=-1).max()) + 1


class Tokenizer(Protocol):
    """Cuts each prompt to ``limit`` tokens, special tokens included, and pads it to that length."""

    limit: int

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Return ids and mask of the prompts."""
        ...

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each prompt before it is cut, special tokens included."""
        ...


class OpenClipTokenizer:
    """A tokenizer of open_clip.

    Args:
        limit: Maximum number of tokens.
        folder: Folder of a Hugging Face tokenizer; by default OpenAI's vocabulary, which open_clip ships.
        **settings: open_clip's "tokenizer_kwargs", such as how a text is cleaned.
    """

    def __init__(self, limit: int = CLIP_LIMIT, folder: Path | None = None, **settings: Any) -> None:
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

        self.limit = limit
        if folder is None:
            self._tokenizer = SimpleTokenizer(context_length=limit, **settings)
            self._length: Callable[[str], int] = lambda prompt: len(self._tokenizer.encode(prompt)) + 2
        else:
            self._tokenizer = HFTokenizer(str(folder), context_length=limit, **settings)
            clean, tokenize = self._tokenizer.clean_fn, self._tokenizer.tokenizer
            self._length = lambda prompt: len(tokenize(clean(prompt), verbose=False)["input_ids"])

    def __deepcopy__(self, _: object) -> OpenClipTokenizer:
        return self  # it never changes, and its tables are long

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        ids = self._tokenizer(list(prompts))
        # open_clip returns no mask. Its padding (0) is a word of the vocabulary too, so the mask is made from
        # the lengths.
        lengths = torch.tensor([min(length, self.limit) for length in self.lengths(prompts)])
        return Tokens(ids, (torch.arange(self.limit) < lengths[:, None]).long())

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [self._length(prompt) for prompt in prompts]


class _TransformersTokenizer:
    """A tokenizer of transformers, applied to ``clean(prompt)``."""

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
        # Not verbose, because counting texts that are too long is the purpose here, and transformers warns
        # of each of them.
        texts = [self._clean(prompt) for prompt in prompts]
        return [len(ids) for ids in self._tokenizer(texts, verbose=False)["input_ids"]]


class _SiglipTokenizer:
    """SigLIP's tokenizer: sentencepiece on lower-case text without punctuation.

    Prompts end with </s> and are padded with it. The ids are those of transformers' SiglipTokenizer, which
    needs protobuf as a further dependency.
    """

    _UNKNOWN = "<unk>"
    _END = "</s>"

    def __init__(self, path: Path, limit: int) -> None:
        from sentencepiece import SentencePieceProcessor

        self.limit = limit
        with tokenizer_errors(path):
            self._model: Any = SentencePieceProcessor(model_proto=path.read_bytes())
            self._end = self._model.piece_to_id(self._END)
            if self._end == self._model.unk_id():
                raise ValueError(f"it has no piece {self._END}")
        # sentencepiece strips spaces at the beginning of a text, which SigLIP was trained with. Behind
        # another text they stay, so the text is encoded behind "<unk>", whose pieces are then dropped.
        self._skip = len(self._model.encode(self._UNKNOWN))

    def __deepcopy__(self, _: object) -> _SiglipTokenizer:
        return self

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        ids = torch.full((len(prompts), self.limit), self._end)
        mask = torch.zeros_like(ids)
        for row, pieces in enumerate(map(self._pieces, prompts)):
            cut = [*pieces[: self.limit - 1], self._end]
            ids[row, : len(cut)] = torch.tensor(cut)
            mask[row, : len(cut)] = 1
        return Tokens(ids, mask)

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(self._pieces(prompt)) + 1 for prompt in prompts]

    def _pieces(self, prompt: str) -> list[int]:
        ids: list[int] = self._model.encode(self._UNKNOWN + _canonical(prompt))
        return ids[self._skip :]


def transformers_tokenizer(folder: Path, limit: int) -> Tokenizer:
    """Load the tokenizer in a folder of transformers' layout.

    Args:
        folder: A folder with ``tokenizer_config.json``.
        limit: Maximum number of tokens.

    Raises:
        MismatchError: If the folder is unreadable or its kind of tokenizer is not supported.
    """
    path = folder / "tokenizer_config.json"
    kind = read_json(path).get("tokenizer_class", "CLIPTokenizer")  # old CLIP folders have no such entry
    make = _TOKENIZERS.get(str(kind).removesuffix("Fast"))
    if make is None:
        raise MismatchError(f"{path} names a {kind}; supported: {', '.join(_TOKENIZERS)}")
    return make(folder, limit)


def clip_tokenizer(folder: Path, limit: int) -> Tokenizer:
    """Load the CLIP tokenizer in a folder of transformers' layout. Raises `MismatchError`."""
    from transformers import CLIPTokenizer

    with tokenizer_errors(folder):
        return _TransformersTokenizer(CLIPTokenizer.from_pretrained(folder, local_files_only=True), limit)


def bert_tokenizer(vocabulary: Path, limit: int) -> Tokenizer:
    """Load a lower-case WordPiece tokenizer from a text file, one piece per line. Raises `MismatchError`."""
    from transformers import BertTokenizer

    with tokenizer_errors(vocabulary):
        lacking = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - set(vocabulary.read_text(encoding="utf-8").split())
        if lacking:  # transformers would add them with new ids
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        return _TransformersTokenizer(BertTokenizer(vocab=str(vocabulary)), limit)


def _siglip_tokenizer(folder: Path, limit: int) -> Tokenizer:
    return _SiglipTokenizer(folder / "spiece.model", limit)


def _canonical(prompt: str) -> str:
    """Return the text as SigLIP was trained on it (transformers' SiglipTokenizer): a space comes first."""
    text = (_SPACE + prompt.replace(_SPACE, " ")).lower().translate(_PUNCTUATION)
    return re.sub(r"\s+", " ", text).strip()


def _siglip2_tokenizer(folder: Path, limit: int) -> Tokenizer:
    """Load SigLIP 2's tokenizer: Gemma's vocabulary on lower-case text, ended by <eos>, padded by <pad>."""
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    pieces = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    # SigLIP 2 was trained on texts with <eos> at the end and no <bos>, whatever the file's own template says.
    end = [("<eos>", pieces.token_to_id("<eos>"))]
    pieces.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=end)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", padding_side="right"
    )
    return _TransformersTokenizer(tokenizer, limit, str.lower)


_TOKENIZERS: Mapping[str, Callable[[Path, int], Tokenizer]] = {
    "CLIPTokenizer": clip_tokenizer,
    "SiglipTokenizer": _siglip_tokenizer,
    "Siglip2Tokenizer": _siglip2_tokenizer,
    "GemmaTokenizer": _siglip2_tokenizer,
}
"""Loaders by the "tokenizer_class" of transformers."""


@contextmanager
def tokenizer_errors(path: Path) -> Iterator[None]:
    """Turn any error of a tokenizer library into a `MismatchError` that names the file."""
    try:
        yield
    except Exception as error:  # the libraries raise bare exceptions
        raise MismatchError(f"{path} cannot be read as a tokenizer ({error}); fetch it again") from error
