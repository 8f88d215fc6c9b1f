"""Prompts: read them from files, hash them, and derive the noise of each sample.

Training and suites share this module, so that a prompt has the same text, id and noise everywhere. The id of
a prompt is its position in its source, because benchmarks repeat prompts.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcbench.errors import FileFormatError

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


def prompts_sha256(prompts: Iterable[Prompt]) -> str:
    """Return the hash that identifies a prompt set: over its canonical texts in order, one a line.

    Ids, categories and the file format are left out, so the same prompts have the same hash in any file.
    """
    return hashlib.sha256("\n".join(canonical(prompt.text) for prompt in prompts).encode()).hexdigest()


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

    One generator a row, on the CPU, so that a row depends on its own seed only: not on the batch, and not on
    the device, whose generators differ.

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


@dataclass(frozen=True)
class _Entry:
    """One prompt in a file."""

    location: str
    """Where it is in the file: "line 7" or "entry 7"."""
    fields: Mapping[str, str]
    """Values by lower-case column name."""


def read_prompts(path: Path | str) -> list[Prompt]:
    """Read the prompts of a file, in file order.

    Formats: .txt (one prompt a line), .csv, .tsv (without quoting), .json and .jsonl. Tables and JSON objects
    need a column `prompt` (or text, caption) and may have `category` (or style, tag). JSON may also be a list
    of strings, or an object of lists whose keys become categories. A byte-order mark, Windows line ends and
    empty lines are accepted.

    Raises:
        FileFormatError: If the file does not have this layout; the message names the line and the fix.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise FileFormatError(
            f"{path}: unknown file type {path.suffix!r}; expected one of {', '.join(_READERS)}"
        )
    entries = list(reader(path, read_text(path)))
    if not entries:
        raise FileFormatError(f"{path} holds no prompts; expected at least one")
    _refuse_duplicate_ids(path, entries)
    return [_prompt(path, position, entry) for position, entry in enumerate(entries)]


def read_text(path: Path) -> str:
    """Return a UTF-8 file, or a UTF-16 file with a byte-order mark, as text with Unix line ends.

    Raises:
        FileFormatError: If the file cannot be read, or is in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read prompt file {path}: {error.strerror}") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fix = f"convert it, for instance: iconv -f latin1 -t utf-8 {path.name}"
        raise FileFormatError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; {fix}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path, text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _Entry(f"line {number}", {"prompt": line})


def _csv(path: Path, text: str) -> Iterator[_Entry]:
    yield from _table(path, csv.DictReader(io.StringIO(text), strict=True))


def _tsv(path: Path, text: str) -> Iterator[_Entry]:
    yield from _table(path, csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def _table(path: Path, reader: csv.DictReader[str]) -> Iterator[_Entry]:
    names = [name.strip().lower() for name in reader.fieldnames or []]
    while names and not names[-1]:
        names.pop()  # spreadsheets export empty columns at the end
    reader.fieldnames = names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise FileFormatError(f"{path}, line 1: column {twice[0]!r} is given twice; rename or remove one")
    if _first(names, PROMPT_COLUMNS) is None:
        raise FileFormatError(
            f"{path}, line 1: no prompt column among {', '.join(names) or 'none'}; name one column 'prompt'"
        )
    try:
        for row in reader:
            location = f"line {reader.line_num}"
            extra = row.pop(None, None) or []  # cells beyond the header
            cells = list(row.values())
            if None in cells or any(cell.strip() for cell in extra):
                raise FileFormatError(
                    f"{path}, {location}: expected {len(names)} cells, as in the header; fix the row"
                )
            yield _Entry(location, dict(zip(names, (str(cell) for cell in cells), strict=True)))
    except csv.Error as error:
        raise FileFormatError(
            f"{path}, line {reader.line_num}: {error}; fix the quotes of the row"
        ) from error


def _json(path: Path, text: str) -> Iterator[_Entry]:
    value = _parse(path, text, 0)
    if isinstance(value, dict) and all(isinstance(member, list) for member in value.values()):
        value = [
            {"prompt": item, "category": category} for category, items in value.items() for item in items
        ]
    if not isinstance(value, list):
        raise FileFormatError(f"{path}: expected a list of prompts, or an object of lists by category")
    for number, item in enumerate(value, 1):
        yield _Entry(f"entry {number}", _fields(path, f"entry {number}", item))


def _jsonl(path: Path, text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _Entry(f"line {number}", _fields(path, f"line {number}", _parse(path, line, number - 1)))


_READERS: Mapping[str, Callable[[Path, str], Iterator[_Entry]]] = {
    ".txt": _lines, ".csv": _csv, ".tsv": _tsv, ".json": _json, ".jsonl": _jsonl,
}  # fmt: skip


def _parse(path: Path, text: str, lines_before: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FileFormatError(
            f"{path}, line {lines_before + error.lineno}: not JSON ({error.msg}); fix the line"
        ) from error


def _fields(path: Path, location: str, item: object) -> dict[str, str]:
    if isinstance(item, str):
        return {"prompt": item}
    if not isinstance(item, dict):
        raise FileFormatError(
            f"{path}, {location}: {item!r} is not a prompt; expected text, or an object with 'prompt'"
        )
    fields = {
        str(k).lower(): v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in item.items()
    }
    name = _first(fields, PROMPT_COLUMNS)
    if name is None or not isinstance({str(k).lower(): v for k, v in item.items()}[name], str):
        raise FileFormatError(f"{path}, {location}: no text under 'prompt' among {', '.join(fields)}; add it")
    return fields


def _first(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    present = set(names)
    return next((name for name in wanted if name in present), None)


def _prompt(path: Path, position: int, entry: _Entry) -> Prompt:
    text_name, category_name = _first(entry.fields, PROMPT_COLUMNS), _first(entry.fields, _CATEGORY_COLUMNS)
    assert text_name is not None  # every reader has checked it
    text = canonical(entry.fields[text_name])
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FileFormatError(
            f"{path}, {entry.location}: the prompt has an unpaired surrogate; write the whole character"
        )
    if not text:
        raise FileFormatError(f"{path}, {entry.location}: the prompt is empty; write one or remove it")
    tags = {name: value for name, value in entry.fields.items() if name not in (text_name, category_name)}
    return Prompt(position, text, canonical(entry.fields[category_name]) if category_name else "", tags)


def _refuse_duplicate_ids(path: Path, entries: Sequence[_Entry]) -> None:
    name = _first(entries[0].fields, _ID_COLUMNS)
    if name is None:
        return
    locations: dict[str, list[str]] = {}
    for entry in entries:
        if name in entry.fields:
            locations.setdefault(entry.fields[name], []).append(entry.location)
    for value, (first, *others) in locations.items():
        if others:
            raise FileFormatError(
                f"{path}, {others[0]}: id {value!r} is already used in {first}; give each prompt its own id"
            )
