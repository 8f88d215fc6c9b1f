"""Prompts: reading them from files, their canonical hash, and the noise that belongs to each.

Training and suites share this module, so a prompt has one spelling, one positional id and one noise
everywhere. A prompt's id is its position in its source, because benchmarks repeat prompts.
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
CATEGORY_COLUMNS = ("category", "style", "tag")
ID_COLUMNS = ("id", "prompt_id")


@dataclass(frozen=True)
class Prompt:
    """One prompt of an ordered source. `tags` are the source's other columns, as text."""

    id: int
    text: str
    category: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


def canonical(text: str) -> str:
    """One spelling for prompts that every tokenizer here reads alike: NFC, runs of white space become a
    blank.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def prompts_sha256(prompts: Iterable[Prompt]) -> str:
    """Of the ordered canonical texts, one a line: the identity of a prompt set, whatever file it came in."""
    return hashlib.sha256("\n".join(canonical(prompt.text) for prompt in prompts).encode()).hexdigest()


def noise_seed(base_seed: int, prompt_id: int, sample: int, *further: int) -> int:
    """Seed of a sample's initial noise, 63 bits: not of the system, so that systems are paired. ``further``
    numbers are for more noises of the same sample.
    """
    digest = hashlib.sha256(":".join(map(str, (base_seed, prompt_id, sample, *further))).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def initial_latents(seeds: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal noise (B, *shape), float32 on the CPU: row i depends on `seeds[i]` alone."""
    import torch

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])


def stratified_order(prompts: Sequence[Prompt], seed: int = 0) -> list[int]:
    """All positions in a seeded order whose every prefix holds the categories in proportion.

    Prefixes nest by construction, so the first 64 are among the first 128. Within a category of n the prompt
    ranked r by its hash gets the place (r + u) / n, with u in [0, 1) drawn once a category.
    """
    by_category: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        by_category.setdefault(prompt.category, []).append(position)
    places: dict[int, float] = {}
    for category, members in by_category.items():
        offset = _uniform(seed, "category", category)
        ranked = sorted(members, key=lambda position: _uniform(seed, "prompt", str(position)))
        places |= {position: (rank + offset) / len(ranked) for rank, position in enumerate(ranked)}
    return sorted(places, key=lambda position: (places[position], position))


def _uniform(seed: int, *parts: str) -> float:
    digest = hashlib.sha256(":".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


# Reading files


@dataclass(frozen=True)
class _Entry:
    """One prompt as a file gives it. `place` says where: "line 7" or "entry 7"."""

    place: str
    fields: Mapping[str, str]


def read_prompts(path: Path | str) -> list[Prompt]:
    """Prompts of a .txt (one a line), .csv, .tsv (quoting off), .json or .jsonl file, in file order.

    Tables and JSON objects need a column `prompt` (or text, caption) and may have `category` (or style, tag);
    JSON may also be a list of strings or an object of lists, whose keys become categories. A byte-order mark
    and Windows line ends are accepted, and so are empty lines between prompts of a text file.
    Raises FileFormatError otherwise, naming file, line and mend.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise FileFormatError(f"{path}: unknown kind {path.suffix!r}; give one of {', '.join(_READERS)}")
    entries = list(reader(path, read_text(path)))
    if not entries:
        raise FileFormatError(f"{path} holds no prompt; expected at least one")
    _refuse_duplicate_ids(path, entries)
    return [_prompt(path, position, entry) for position, entry in enumerate(entries)]


def read_text(path: Path) -> str:
    """The file as text: UTF-8 with or without a byte-order mark, or UTF-16 with one; line ends become
    newlines.
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
        mend = f"convert it, for instance: iconv -f latin1 -t utf-8 {path.name}"
        raise FileFormatError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; {mend}"
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
        names.pop()  # a spreadsheet's trailing empty columns
    reader.fieldnames = names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise FileFormatError(f"{path}, line 1: two columns are called {twice[0]!r}; rename or remove one")
    if _first(names, PROMPT_COLUMNS) is None:
        raise FileFormatError(
            f"{path}, line 1: no prompt column among {', '.join(names) or 'nothing'}; name one 'prompt'"
        )
    try:
        for row in reader:
            place = f"line {reader.line_num}"
            beyond = row.pop(None, None) or []  # cells without a head
            cells = list(row.values())
            if None in cells or any(cell.strip() for cell in beyond):
                raise FileFormatError(
                    f"{path}, {place}: not {len(names)} cells as in the head line; mend the row"
                )
            yield _Entry(place, dict(zip(names, (str(cell) for cell in cells), strict=True)))
    except csv.Error as error:
        raise FileFormatError(
            f"{path}, line {reader.line_num}: {error}; mend the quotes of the row"
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
            f"{path}, line {lines_before + error.lineno}: not JSON ({error.msg}); mend it"
        ) from error


def _fields(path: Path, place: str, item: object) -> dict[str, str]:
    if isinstance(item, str):
        return {"prompt": item}
    if not isinstance(item, dict):
        raise FileFormatError(
            f"{path}, {place}: {item!r} is no prompt; expected text or an object with 'prompt'"
        )
    fields = {
        str(k).lower(): v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in item.items()
    }
    name = _first(fields, PROMPT_COLUMNS)
    if name is None or not isinstance({str(k).lower(): v for k, v in item.items()}[name], str):
        raise FileFormatError(f"{path}, {place}: no text under 'prompt' among {', '.join(fields)}; add it")
    return fields


def _first(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    present = set(names)
    return next((name for name in wanted if name in present), None)


def _prompt(path: Path, position: int, entry: _Entry) -> Prompt:
    text_name, category_name = _first(entry.fields, PROMPT_COLUMNS), _first(entry.fields, CATEGORY_COLUMNS)
    assert text_name is not None  # every reader has checked it
    text = canonical(entry.fields[text_name])
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FileFormatError(
            f"{path}, {entry.place}: the prompt holds half a character (a lone surrogate); mend it"
        )
    if not text:
        raise FileFormatError(f"{path}, {entry.place}: the prompt is empty; write one or remove it")
    tags = {name: value for name, value in entry.fields.items() if name not in (text_name, category_name)}
    return Prompt(position, text, canonical(entry.fields[category_name]) if category_name else "", tags)


def _refuse_duplicate_ids(path: Path, entries: Sequence[_Entry]) -> None:
    name = _first(entries[0].fields, ID_COLUMNS)
    if name is None:
        return
    places: dict[str, list[str]] = {}
    for entry in entries:
        if name in entry.fields:
            places.setdefault(entry.fields[name], []).append(entry.place)
    for value, (first, *others) in places.items():
        if not others:
            continue
        second = others[0]
        raise FileFormatError(f"{path}, {second}: id {value!r} stands already in {first}; ids must differ")
