"""Prompt sources for training, and the samples of each update.

A sample is a prompt with its noise and depends on the seed and its number alone. So a run can be resumed at
any update, and processes share an update without communicating.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcbench.errors import ConfigError, MissingFiles, first_line
from tcbench.tables import COLUMNS
from textcraftor.diffusion.prompts import canonical, noise_seed, prompts_sha256, read_prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HUB = "hub:"
SUITE = "suite:"
"""Prefix of a prompt suite's name."""

WORLD_SPLITS = {"suite:world-train": "train", "suite:world-validation": "validation"}
"""Suites that this package reads itself; `tcbench train --prompts` reads the others."""

RENAMED_SOURCES = {"world": "suite:world-train", "world-validation": "suite:world-validation"}
"""Prompt sources of earlier versions and their present names."""


@dataclass(frozen=True)
class PromptSource:
    """Prompts by number. A named one comes from `find`."""

    name: str
    texts: Sequence[str]
    sha256: str
    """Hash of the ordered texts in canonical spelling."""

    @classmethod
    def from_texts(cls, name: str, texts: Sequence[str]) -> PromptSource:
        """Make a source of texts in memory."""
        spelled = [canonical(text) for text in texts]
        return cls(name, spelled, prompts_sha256(spelled))

    def __len__(self) -> int:
        return len(self.texts)

    @staticmethod
    def find(
        name: str, *, fetch: bool = True, suites: Callable[[str, bool], PromptSource] | None = None
    ) -> PromptSource:
        """Return the prompts of a source.

        Args:
            name: "suite:world-train", "suite:world-validation", the path of a prompt file, or
                ``hub:ID[@revision][:column]`` for a data set of the Hugging Face hub, which stays on disk.
            fetch: Download what is missing if the hub can be reached.
            suites: Reads the other suites, by the name with "suite:" and whether to download.

        Raises:
            MissingFiles: If a data set or suite must be downloaded first.
            FileFormatError: If a prompt file cannot be read.
            ConfigError: If it is not a prompt source.
        """
        if name in WORLD_SPLITS:
            from rewards.world.prompts import world_prompts

            split: Any = WORLD_SPLITS[name]
            return PromptSource.from_texts(name, [prompt.text for prompt in world_prompts(split)])
        if name.startswith(HUB):
            return _from_hub(name, fetch)
        if name.startswith(SUITE) and suites is not None:
            return suites(name, fetch)
        if name.startswith(SUITE):
            raise ConfigError(
                f"prompt source {name!r} cannot be read here; expected {' or '.join(WORLD_SPLITS)}, or give "
                "any suite with tcbench train --prompts"
            )
        if name in RENAMED_SOURCES and not Path(name).exists():
            raise ConfigError(f"prompt source {name!r} is now {RENAMED_SOURCES[name]!r}")
        if not name:
            raise ConfigError(
                "no training prompts given, and the model has no default; set data.prompts to a prompt "
                "file or hub:ID (--prompts)"
            )
        return PromptSource.from_texts(Path(name).name, [prompt.text for prompt in read_prompts(Path(name))])


@dataclass(frozen=True)
class Sample:
    """One prompt with its noise."""

    number: int
    """Position in the run, from 0."""
    prompt: int
    """Number of the prompt in its source."""
    text: str
    noise_seed: int


@dataclass(frozen=True)
class Batch:
    """The samples of one update, or one process's share of them."""

    update: int
    samples: Sequence[Sample]

    def share(self, process: int, processes: int) -> Batch:
        """Return one process's samples; `textcraftor.inputs` checks that all have as many."""
        assert len(self.samples) % processes == 0
        return Batch(self.update, self.samples[process::processes])


def _from_hub(name: str, fetch: bool) -> PromptSource:
    data_set, _, column = name.removeprefix(HUB).partition(":")
    ident, _, revision = data_set.partition("@")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError("hub: prompts require the datasets package; pip install 'tcbench[hub]'") from error
    remote = not Path(ident).is_dir()
    if remote and revision and not fetch:  # the library's cache does not tell revisions apart
        raise MissingFiles(f"data set {data_set} is not checked, because downloads are off", download=True)
    try:
        with nullcontext() if fetch else _offline():
            loaded = load_dataset(ident, revision=revision or None, split="train")
    except Exception as error:  # the library raises errors of several others
        if remote and not fetch:
            raise MissingFiles(
                f"data set {data_set} is not on this machine, and downloads are off", download=True
            ) from error
        raise ConfigError(f"cannot load data set {data_set}: {first_line(error)}") from error
    columns = [column] if column else [known for known in COLUMNS["prompt"] if known in loaded.column_names]
    if not columns or columns[0] not in loaded.column_names:
        raise ConfigError(
            f"data set {ident} has the columns {ConfigError.listed(loaded.column_names)}; name the one with "
            f"prompts: {HUB}{data_set}:COLUMN"
        )
    return PromptSource(name, _Column(loaded, columns[0]), str(loaded._fingerprint))


@contextmanager
def _offline() -> Iterator[None]:
    """Let the library `datasets` use its cache alone."""
    from datasets import config

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


class _Column(Sequence[str]):
    """One text column of a data set that stays on disk."""

    def __init__(self, rows: Any, column: str) -> None:
        self._rows, self._column = rows, column

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return canonical(str(self._rows[index][self._column]))


@dataclass(frozen=True)
class SampleOrder:
    """All samples of a run by number: epoch after epoch, each in a different random order."""

    source: PromptSource
    seed: int
    noises: int = 0
    """Different noises of a prompt over all epochs; 0: a new one in each epoch."""
    group: int = 1
    """Consecutive samples of one prompt, each with its own noise."""

    def __getitem__(self, number: int) -> Sample:
        epoch, position = divmod(number // self.group, len(self.source))
        prompt = int(_permutation(self.seed, epoch, len(self.source))[position])
        noise = (epoch % self.noises if self.noises else epoch) * self.group + number % self.group
        return Sample(number, prompt, self.source.texts[prompt], noise_seed(self.seed, prompt, noise))

    def batch(self, update: int, size: int) -> Batch:
        """Return the samples of one update."""
        return Batch(update, [self[number] for number in range(update * size, (update + 1) * size)])


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    import numpy as np

    return np.random.default_rng([seed, epoch]).permutation(count)
