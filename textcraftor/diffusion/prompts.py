"""Prompts: read them from files, hash them, and derive the noise of each sample.

Training and suites share this module, so that a prompt has the same text, id and noise everywhere. The id of
a prompt is its position in its source, because benchmarks repeat prompts.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tcbench.errors import FileFormatError
from tcbench.tables import Row, read_table

if TYPE_CHECKING:
    import torch

_ID_COLUMNS = ("id", "prompt_id")


@dataclass(frozen=True)
class Prompt:
    """One prompt of an ordered source."""

    id: int
    """Position in the source, from 0."""
    text: str
    """The prompt, in its canonical spelling (`canonical`)."""
    category: str = ""
    """Category in the source; "": none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Other columns of the source, as text, by lower-case name."""


def canonical(text: str) -> str:
    """Return the one spelling of prompts that differ only in Unicode composition or white space.

    Unicode is composed (NFC) and runs of white space become one space. Tokenizers give both spellings the
    same tokens; a common spelling gives them the same hash too.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def prompts_sha256(texts: Iterable[str]) -> str:
    """Return the hash that identifies a prompt set: over its canonical texts in order, one per line.

    Ids, categories and the file format are left out, so the same prompts have the same hash in any file.
    """
    return hashlib.sha256("\n".join(map(canonical, texts)).encode()).hexdigest()


def noise_seed(base_seed: int, prompt_id: int, sample: int, *further: int) -> int:
    """Return the seed of a sample's initial noise.

    It depends on the prompt and the sample and not on the system, so systems that are compared start from
    the same noise and their differences are paired. A hash spreads neighbouring ids over all seeds.

    Args:
        base_seed: Base seed of the run.
        prompt_id: Id of the prompt.
        sample: Index of the sample among those of the prompt.
        *further: Further indices, for other noise of the same sample.

    Returns:
        An integer of 63 bits, which fits the signed 64-bit seeds of torch.
    """
    digest = hashlib.sha256(":".join(map(str, (base_seed, prompt_id, sample, *further))).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def initial_latents(seeds: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Return standard normal noise (B, C, h, w), float32 on the CPU.

    One generator per row, on the CPU, so that a row depends on its seed only, not on the batch, nor on the
    device, whose generators differ.

    Args:
        seeds: B seeds.
        shape: (C, h, w) of one latent.
    """
    import torch

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])


def stratified_order(prompts: Sequence[Prompt], seed: int = 0) -> list[int]:
    """Return all positions in a seeded order in which every prefix holds the categories in proportion.

    Prefixes nest: the first 64 prompts are among the first 128, so that a larger ``--limit`` adds prompts.
    Systematic sampling: in a category of n prompts, the one of rank r (by a hash) gets the key (r + u) / n,
    where u in [0, 1) is common to the category; the prompts are then sorted by key.

    Args:
        prompts: Prompts with categories.
        seed: Seed of the order.
    """
    by_category: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        by_category.setdefault(prompt.category, []).append(position)
    keys: dict[int, float] = {}
    for category, members in by_category.items():
        offset = _uniform(seed, "category", category)
        ranked = sorted(members, key=lambda position: _uniform(seed, "prompt", str(position)))
        keys |= {position: (rank + offset) / len(ranked) for rank, position in enumerate(ranked)}
    return sorted(keys, key=lambda position: (keys[position], position))


def _uniform(seed: int, *parts: str) -> float:
    """Return a number in [0, 1) from a hash: the same on every machine, whatever its random generators."""
    digest = hashlib.sha256(":".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


# Reading files


def read_prompts(path: Path | str, rows: Sequence[Row] | None = None) -> list[Prompt]:
    """Read a prompt file, as `tcbench.tables.read_table` describes it.

    Tables may have a column `category` (or style, tag); case does not matter.

    Args:
        path: A .txt (one prompt per line), .csv, .tsv, .json or .jsonl file.
        rows: Rows that were read from it already and chosen by the caller; None reads all of them.

    Returns:
        Prompts in file order; ids count from 0.

    Raises:
        FileFormatError: If the file is not as described, with file, line and fix.
    """
    path = Path(path)
    if rows is None:
        rows = list(read_table(path))
        _check_ids(path, rows)
    if not rows:
        raise FileFormatError(f"{path} holds no prompts; expected at least one")
    return [_prompt(path, position, row) for position, row in enumerate(rows)]


def _prompt(path: Path, position: int, row: Row) -> Prompt:
    names = (row.column("prompt"), row.column("category"))
    text = canonical(row.get("prompt"))
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FileFormatError(
            f"{path}, {row.where}: the prompt has an unpaired surrogate; replace the character"
        )
    if not text:
        raise FileFormatError(f"{path}, {row.where}: the prompt is empty; write one or remove the row")
    tags = {name.lower(): cell for name, cell in row.cells.items() if name not in names}
    return Prompt(position, text, canonical(row.get("category")), tags)


def _check_ids(path: Path, rows: Sequence[Row]) -> None:
    """Refuse a file in which two prompts have the same id."""
    columns = {name.lower(): name for row in rows for name in row.cells}
    name = next((columns[name] for name in _ID_COLUMNS if name in columns), None)
    first: dict[str, str] = {}
    for row in rows if name else ():
        value = row.cells.get(name or "", "")
        if value and first.setdefault(value, row.where) != row.where:
            raise FileFormatError(
                f"{path}, {row.where}: id {value!r} is already used in {first[value]}; ids must differ"
            )
