"""Read tables: text, CSV, TSV, JSON and JSON lines, with the line or entry of each row for messages.

The readers of pandas are not used here: they fill short rows with missing values and guess types, while a
prompt file or a score table with a damaged row must be refused with its line number.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tcbench.errors import FileFormatError

COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "prompt": ("prompt", "prompts", "text", "caption"),
        "category": ("category", "style", "tag"),
        "prompt_id": ("prompt_id",),
        "sample": ("sample",),
        "image": ("image", "file_name", "file"),
        "reward": ("reward",),
        "score": ("score",),
    }
)
"""Names of each column with a meaning, in lower case and in order of preference."""

_PROMPT_NAMES = f"{', '.join(COLUMNS['prompt'][:-1])} or {COLUMNS['prompt'][-1]}"

_KINDS = (".txt", ".csv", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    where: str
    """"line 7" of a text file, or "entry 7" of a JSON file."""
    cells: Mapping[str, str]
    """Text by column name, as the file spells it. A row of plain text has the column `prompt`; a cell without
    a value is empty."""

    def column(self, meaning: str) -> str | None:
        """Return the file's name of a column of `COLUMNS` in any case, or None if there is none."""
        spelled = {name.lower(): name for name in self.cells}
        return next((spelled[name] for name in COLUMNS[meaning] if name in spelled), None)

    def get(self, meaning: str) -> str:
        """Return the cell of a column of `COLUMNS`, without white space around it; empty if there is none."""
        name = self.column(meaning)
        return "" if name is None else self.cells[name].strip()


def read_table(path: Path) -> Iterator[Row]:
    """Yield the rows of a table with prompts, in file order: the one reader of prompts, scores and folders.

    Column names are stripped; trailing columns without a name and empty cells beyond them, which spreadsheets
    write, are dropped. Empty lines are skipped.

    Args:
        path: A .txt file (every line is a prompt), or a .csv, .tsv, .json or .jsonl file with a column
            `prompt` (or prompts, text, caption). JSON is a list of texts or objects, an object with
            one list of objects, a table as pandas writes it in any orientation, or an object of lists whose
            keys are categories. No line of a .txt, .csv or .tsv file may begin with "#".
            UTF-8 with or without a byte-order mark, or UTF-16 with one.

    Raises:
        FileFormatError: If the file cannot be read, with file, line and fix.
    """
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise FileFormatError(
            f"{path}: unknown file type {path.suffix!r}; expected one of {', '.join(_KINDS)}"
        )
    text = _read_text(path)
    if kind == ".txt":
        return _text_rows(path, text)
    if kind == ".csv":
        return _delimited_rows(path, text, ",", csv.QUOTE_MINIMAL)
    if kind == ".tsv":
        return _delimited_rows(path, text, "\t", _tsv_quoting(text))
    return _json_rows(path, text) if kind == ".json" else _json_line_rows(path, text)


def _read_text(path: Path) -> str:
    """Return a text file with newlines as line ends: UTF-8, or UTF-16 with a byte-order mark.

    Raises:
        FileFormatError: If the file cannot be read or is in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror}") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileFormatError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file, for "
            f"instance: iconv -f latin1 -t utf-8 {path.name}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        _refuse_comment(path, number, line)
        if line.strip():
            yield Row(f"line {number}", {"prompt": line})


def _refuse_comment(path: Path, number: int, line: str) -> None:
    """Refuse a line that begins with "#", in every format of lines that is not JSON.

    Neither guess is safe: a comment would become a prompt, or a prompt would disappear.
    """
    if line.lstrip().startswith("#"):
        raise FileFormatError(
            f"{path}, line {number}: {line.strip()[:40]!r} begins with '#', and a text file has no "
            "comments; remove the line, or write a prompt that begins with '#' in quotes in a .csv file or "
            "in a .jsonl file"
        )


_ESCAPED_CELL = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
"""A whole cell in quotes with doubled quotes inside, which nobody writes by hand."""


def _tsv_quoting(text: str) -> Literal[0, 3]:
    """Return csv's quoting mode for a .tsv file: QUOTE_MINIMAL or QUOTE_NONE.

    Quotes enclose cells (pandas, spreadsheets) if the header is quoted, if a cell has doubled quotes within
    quotes, or if only then all rows have the same number of cells. Otherwise they are part of the text, as in
    PartiPrompts.
    """
    lines = [line.split("\t") for line in text.split("\n") if line.strip()]
    header = lines[0] if lines else []
    quoted_header = any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in map(str.strip, header))
    if quoted_header or any(_ESCAPED_CELL.fullmatch(cell) for line in lines for cell in line):
        return csv.QUOTE_MINIMAL
    if '"' not in text or all(len(line) == len(header) for line in lines):
        return csv.QUOTE_NONE
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter="\t", strict=True) if row]
    except csv.Error:
        return csv.QUOTE_NONE
    return csv.QUOTE_MINIMAL if all(len(row) == len(rows[0]) for row in rows) else csv.QUOTE_NONE


def _delimited_rows(path: Path, text: str, delimiter: str, quoting: Literal[0, 3]) -> Iterator[Row]:
    # strict: an unclosed quote would otherwise swallow the rest of the file as one cell
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, quoting=quoting, strict=True)
    lines = text.split("\n")
    try:
        names = [name.strip() for name in reader.fieldnames or []]
        end = reader.line_num
        _refuse_comment(path, *_first_line(lines, 0, end))
        while names and not names[-1]:
            names.pop()
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise FileFormatError(
                f"{path}, line 1: two columns are called {twice[0]!r}; rename or remove one"
            )
        reader.fieldnames = names
        for row in reader:
            start, end = end, reader.line_num
            _refuse_comment(path, *_first_line(lines, start, end))
            where = f"line {reader.line_num}"
            beyond = row.pop(None, None) or []  # cells without a column
            if None in row.values() or any(cell.strip() for cell in beyond):
                raise FileFormatError(
                    f"{path}, {where}: expected {len(names)} cells, as in line 1; fix the row"
                )
            yield _row(path, where, row)
    except csv.Error as error:
        raise FileFormatError(
            f"{path}, line {reader.line_num}: {error}; fix the quotes of the row"
        ) from error


def _first_line(lines: list[str], start: int, end: int) -> tuple[int, str]:
    """Return number and text of the line with which a row begins that ends in line ``end``.

    Args:
        lines: All lines of the file.
        start: Lines before the row; empty ones after them do not belong to it.
        end: Number of its last line.
    """
    numbered = enumerate(lines[start:end], start + 1)
    return next(((number, line) for number, line in numbered if line), (end, ""))


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    content = _json_table(path, _parse(path, text, lines_before=0))
    if not isinstance(content, list):
        raise FileFormatError(
            f"{path}: expected a list of texts or objects, a table with a column 'prompt', or an object of "
            "lists by category"
        )
    for number, item in enumerate(content, 1):
        yield _row(path, f"entry {number}", item)


def _json_table(path: Path, content: Any) -> Any:
    """Return the rows of an object that stands for a table, in one of the orientations that pandas writes.

    An object with one list of rows stands for them. An object of lists without a list of prompts has
    categories as its keys; if it may be a table as well, it is an error.
    """
    if not isinstance(content, dict):
        return content
    if isinstance(content.get("data"), list):
        if isinstance(content.get("columns"), list):  # orient="split"
            return _split_rows(path, content["columns"], content["data"])
        if "schema" in content:  # orient="table"
            return content["data"]
    columns, prompts = list(content.values()), [n for n in content if n.lower() in COLUMNS["prompt"]]
    lists = {name: column for name, column in content.items() if isinstance(column, list)}
    of_rows = [name for name, column in lists.items() if any(isinstance(entry, dict) for entry in column)]
    # the cells of other columns may be objects
    if set(of_rows) & set(prompts) or (of_rows and not prompts):
        return _only_list(path, lists)
    if len(lists) < len(columns):
        if prompts and all(isinstance(column, dict) for column in columns):  # orient="columns", the default
            return [{name: content[name].get(key) for name in content} for key in content[prompts[0]]]
        # otherwise orient="index", or no table
        return columns if all(isinstance(row, dict) for row in columns) else content
    if prompts:  # what to_dict("list") returns
        return _columnar_rows(path, content, prompts[0])
    _check_categories(path, content)
    return [{"prompt": text, "category": name} for name, texts in content.items() for text in texts]


def _only_list(path: Path, lists: Mapping[str, list[Any]]) -> list[Any]:
    """Return the only list of an object, which holds the rows, as in {"prompts": [{"prompt": ...}]}."""
    if len(lists) > 1:
        raise FileFormatError(
            f"{path}: several lists ({FileFormatError.listed(lists)}); expected one with the rows; remove "
            "the others"
        )
    return next(iter(lists.values()))


_WORDS_OF_PROMPTS = {
    "prompt",
    "prompts",
    "text",
    "texts",
    "caption",
    "captions",
    "description",
    "descriptions",
}
"""Words in the name of a column of texts, such as `positive_prompt`."""


def _check_categories(path: Path, content: Mapping[str, list[Any]]) -> None:
    """Refuse an object of lists that may be a table without a known column of prompts.

    Its keys are categories only if nothing speaks for a table: no key names a column, no cell is other than
    text, and lists of equal length, as the columns of a table have, do not look like labels.

    Raises:
        FileFormatError: If it may be a table.
    """
    known = {name for names in COLUMNS.values() for name in names}
    as_columns = [name for name in content if _words(name) & _WORDS_OF_PROMPTS or name.lower() in known]
    texts_only = all(isinstance(cell, str) for column in content.values() for cell in column)
    equal = len(content) > 1 and len({len(column) for column in content.values()}) == 1
    if as_columns or not texts_only or (equal and any(map(_are_labels, content.values()))):
        keys = FileFormatError.listed(content)
        raise FileFormatError(
            f"{path}: may be a table without a column of prompts; keys: {keys}; name that column "
            f"{_PROMPT_NAMES}, or, if the keys are categories, write a list of objects with 'prompt' and "
            "'category'"
        )


def _words(name: str) -> set[str]:
    """Return the words of a column's name in lower case: of "positivePrompt" as of "positive_prompt"."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _are_labels(texts: list[str]) -> bool:
    """Return whether texts look like the labels of rows: one is a single word, or most are repeated."""
    return any(len(text.split()) < 2 for text in texts) or 1 < len(texts) >= 2 * len(set(texts))


def _split_rows(path: Path, names: list[Any], rows: list[Any]) -> list[dict[Any, Any]]:
    """Return the rows of a table that lists its columns, and the cells of each row in their order."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            raise FileFormatError(
                f"{path}, entry {number}: expected a list of {len(names)} cells, as in 'columns', not "
                f"{str(row)[:40]}; fix the entry"
            )
    return [dict(zip(names, row, strict=True)) for row in rows]


def _columnar_rows(path: Path, content: Mapping[str, list[Any]], prompts: str) -> list[dict[str, Any]]:
    """Return the rows of a table that is an object of columns; ``prompts`` is the column of prompts."""
    others = {name: column for name, column in content.items() if name != prompts}
    known = {name for names in COLUMNS.values() for name in names}
    texts_only = all(isinstance(cell, str) for column in others.values() for cell in column)
    # benchmarks have a category "Text": nothing tells such an object from a table
    meant = known & {name.lower() for name in others}
    if others and prompts.lower() in ("text", "caption") and texts_only and not meant:
        raise FileFormatError(
            f"{path}: {prompts!r} is either a category or the column of prompts; rename it to 'prompt' for a "
            "table, or to another name for a category"
        )
    if len({len(column) for column in content.values()}) > 1:
        lengths = FileFormatError.listed(f"{name} {len(column)}" for name, column in content.items())
        raise FileFormatError(
            f"{path}: the columns of the table have different lengths ({lengths}); make them equal, or "
            f"rename {prompts!r} if the keys are categories"
        )
    return [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]


def _json_line_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _row(path, f"line {number}", _parse(path, line, lines_before=number - 1))


def _row(path: Path, where: str, value: Any) -> Row:
    """Check a row: text, or an object with a text as its prompt."""
    if isinstance(value, str):
        return Row(where, {"prompt": value})
    if not isinstance(value, dict):
        raise FileFormatError(
            f"{path}, {where}: expected text or an object with 'prompt', not {str(value)[:40]!r}"
        )
    if len({str(name).lower() for name in value}) < len(value):
        raise FileFormatError(f"{path}, {where}: two columns differ in case only; rename or remove one")
    row = Row(where, {str(name): _cell(cell) for name, cell in value.items()})
    name = row.column("prompt")
    if name is None:
        names = FileFormatError.listed(row.cells)
        raise FileFormatError(
            f"{path}, {where}: no prompt column; columns: {names}; name one {_PROMPT_NAMES}"
        )
    if not isinstance(value[name], str):
        given = repr(value[name])[:40]
        raise FileFormatError(f"{path}, {where}: the prompt is {given}; expected text; fix or remove the row")
    return row


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _parse(path: Path, text: str, lines_before: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = lines_before + error.lineno
        raise FileFormatError(f"{path}, line {line}: not JSON ({error.msg}); fix the line") from error
