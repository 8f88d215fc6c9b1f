"""Where training prompts come from, and which of them are the samples of an update.

A sample is a prompt with its noise, and depends on (seed, its number) alone: so a run can be gone on with
anywhere, and two processes share an update without speaking of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcbench.errors import ConfigError
from textcraftor.diffusion.prompts import PROMPT_COLUMNS, canonical, noise_seed, read_prompts

HUB = "hub:"


@dataclass(frozen=True)
class PromptSource:
    """Prompts that can be had by number. `sha256` is of the ordered canonical texts where they were read."""

    name: str
    texts: Sequence[str]
    sha256: str

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Sample:
    """One prompt with its noise. `prompt` is the prompt's number in the source."""

    number: int
    prompt: int
    text: str
    noise_seed: int


def find_prompts(name: str) -> PromptSource:
    """The source of that name: a split of the embedded world ("world", "world-validation"), a prompt file, or
    a data set of the hub (``hub:ID[@revision][:column]``), which stays on disk.

    Raises PromptFileError for a file that cannot be read, ConfigError for anything else that is no source.
    """
    if name in ("world", "world-validation"):
        from rewards.world.prompts import world_prompts

        split = world_prompts("train" if name == "world" else "validation")
        return of_texts(name, [prompt.text for prompt in split])
    if name.startswith(HUB):
        return _from_hub(name)
    if not name:
        raise ConfigError("this model has no prompts of its own: set prompts to a file or hub:ID (--prompts)")
    return of_texts(Path(name).name, [prompt.text for prompt in read_prompts(Path(name))])


def of_texts(name: str, texts: Sequence[str]) -> PromptSource:
    """Prompts that are at hand."""
    found = [canonical(text) for text in texts]
    return PromptSource(name, found, hashlib.sha256("\n".join(found).encode()).hexdigest())


def _from_hub(name: str) -> PromptSource:
    place, _, column = name.removeprefix(HUB).partition(":")
    ident, _, revision = place.partition("@")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError("prompts of the hub need a library more: pip install 'tcbench[hub]'") from error
    try:
        loaded = load_dataset(ident, revision=revision or None, split="train")
    except Exception as error:  # the library lets those of several others through
        raise ConfigError(f"cannot load data set {place}: {str(error).splitlines()[0]}") from error
    columns = [column] if column else [known for known in PROMPT_COLUMNS if known in loaded.column_names]
    if not columns or columns[0] not in loaded.column_names:
        raise ConfigError(
            f"data set {ident} has the columns {', '.join(loaded.column_names)}; say which holds prompts: "
            f"{HUB}{place}:COLUMN"
        )
    return PromptSource(name, _Column(loaded, columns[0]), str(loaded._fingerprint))


class _Column(Sequence[str]):
    """One text column of a data set that stays on disk."""

    def __init__(self, rows: Any, column: str) -> None:
        self._rows, self._column = rows, column

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return canonical(str(self._rows[index][self._column]))


@dataclass(frozen=True)
class Order:
    """The samples of a run, by number: epoch after epoch, each in an order of its own.

    ``noises`` is how many different noises a prompt has over the epochs; 0: a new one in each. ``group``
    samples in a row are of one prompt, with noises of their own.
    """

    source: PromptSource
    seed: int
    noises: int = 0
    group: int = 1

    def __getitem__(self, number: int) -> Sample:
        epoch, place = divmod(number // self.group, len(self.source))
        prompt = int(_permutation(self.seed, epoch, len(self.source))[place])
        noise = (epoch % self.noises if self.noises else epoch) * self.group + number % self.group
        return Sample(number, prompt, self.source.texts[prompt], noise_seed(self.seed, prompt, noise))

    def batch(self, update: int, size: int) -> list[Sample]:
        """The samples of one update."""
        return [self[number] for number in range(update * size, (update + 1) * size)]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
