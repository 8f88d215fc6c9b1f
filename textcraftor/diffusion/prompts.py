"""Prompts: read them from files, hash them, and derive the noise of each sample.

Training and suites share this module, so that a prompt has the same text, id and noise everywhere. The id of
a prompt is its position in its source, because benchmarks repeat prompts.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tcbench.errors import FileFormatError
from tcbench.tables import read_table

if TYPE_CHECKING:
    import torch

PROMPT_COLUMNS = ("prompt", "prompts", "text", "caption")
"""Names of the column with the prompts, in order of preference."""
_CATEGORY_COLUMNS = ("category", "style", "tag")
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

_KINDS = (".txt", ".csv", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True)
class _Entry:
    """One prompt of a file, with its columns as text."""

    where: str
    """"line 7" or "entry 7"."""
    fields: Mapping[str, str]


def read_prompts(path: Path | str) -> list[Prompt]:
    """Read a prompt file.

    Tables and JSON objects need a column `prompt` (or prompts, text, caption) and may have `category` (or
    style, tag); case does not matter. JSON may also be a list of strings, or an object of lists
    whose keys are categories. A byte-order mark, Windows line ends and empty lines are accepted.

    Args:
        path: A .txt (one prompt per line), .csv, .tsv (quotes are part of the text), .json or .jsonl file.

    Returns:
        Prompts in file order; ids count from 0.

    Raises:
        FileFormatError: If the file is not as described, with file, line and fix.
    """
    path = Path(path)
    entries = list(_entries(path))
    if not entries:
        raise FileFormatError(f"{path} holds no prompts; expected at least one")
    _check_ids(path, entries)
    return [_prompt(path, position, entry) for position, entry in enumerate(entries)]


def _entries(path: Path) -> Iterator[_Entry]:
    for where, value in read_table(path, kinds=_KINDS):
        yield _Entry(where, _fields(path, where, value))


def _fields(path: Path, where: str, value: object) -> dict[str, str]:
    """The columns of a row by lower-case name, as text."""
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise FileFormatError(
            f"{path}, {where}: expected text or an object with 'prompt', not {str(value)[:40]!r}"
        )
    values = {str(name).lower(): item for name, item in value.items()}
    if len(values) < len(value):
        raise FileFormatError(f"{path}, {where}: two columns differ in case only; rename or remove one")
    name = _first(values, PROMPT_COLUMNS)
    if name is None or not isinstance(values[name], str):
        names = ", ".join(values) or "none"
        raise FileFormatError(f"{path}, {where}: no prompt column; columns: {names}; name one 'prompt'")
    return {n: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for n, v in values.items()}


def _first(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    present = set(names)
    return next((name for name in wanted if name in present), None)


def _prompt(path: Path, position: int, entry: _Entry) -> Prompt:
    text_name, category_name = _first(entry.fields, PROMPT_COLUMNS), _first(entry.fields, _CATEGORY_COLUMNS)
    assert text_name is not None  # `_fields` has checked it
    text = canonical(entry.fields[text_name])
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FileFormatError(
            f"{path}, {entry.where}: the prompt has an unpaired surrogate; replace the character"
        )
    if not text:
        raise FileFormatError(f"{path}, {entry.where}: the prompt is empty; write one or remove the row")
    tags = {name: value for name, value in entry.fields.items() if name not in (text_name, category_name)}
    return Prompt(position, text, canonical(entry.fields[category_name]) if category_name else "", tags)


def _check_ids(path: Path, entries: Sequence[_Entry]) -> None:
    """Refuse a file in which two prompts have the same id."""
    name = _first(entries[0].fields, _ID_COLUMNS)
    if name is None:
        return
    first: dict[str, str] = {}
    for entry in entries:
        value = entry.fields.get(name)
        if value is not None and first.setdefault(value, entry.where) != entry.where:
            raise FileFormatError(
                f"{path}, {entry.where}: id {value!r} occurs already in {first[value]}; ids must differ"
            )
