"""A board as files for machines and for papers: CSV long and wide, JSON with a schema, LaTeX.

The same runs and the same stamp give the same bytes: nothing looks at a clock, digits and order are fixed.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from leaderboards.board import Board, Cell, Column, Coverage, Entry, Section
from leaderboards.render import NO_CATEGORY, headline
from leaderboards.stats import Estimate

FORMAT = "tcbench.leaderboard/1"

SCHEMA = Path(__file__).with_name("leaderboard.schema.json")
"""JSON Schema (2020-12) of `json_text`."""


@dataclass(frozen=True)
class Stamp:
    """What a board was made with; its scores and prompts are told by their hashes."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that computed it."""
    commit: str | None = None
    date: str | None = None
    """As the caller gives it."""

    def words(self) -> str:
        """In a line."""
        parts = [f"{name} {version}" for name, version in self.versions.items()]
        parts += [f"commit {self.commit[:8]}"] if self.commit else []
        return ", ".join([*parts, *([self.date] if self.date else [])]) or "not on record"


# CSV


def csv_long(board: Board, stamp: Stamp) -> str:
    """One line a cell: overall (category empty) and by category. Numbers have nine significant digits."""
    rows = (row for section in board.sections for row in _long_rows(section))
    return _csv([row | _stamp_fields(board, stamp) for row in rows])


def csv_wide(board: Board, stamp: Stamp) -> str:
    """One line a system and suite; of each reward its mean, difference, ends of its interval, and claim."""
    rows = [_wide_row(section, entry) for section in board.sections for entry in section.entries]
    return _csv([row | _stamp_fields(board, stamp) for row in rows])


def _stamp_fields(board: Board, stamp: Stamp) -> dict[str, Any]:
    return {"scores_sha256": board.sha256, "made_with": stamp.words()}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for row in rows for name in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(names) or ["suite"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _long_rows(section: Section) -> Iterator[dict[str, Any]]:
    columns = {column.label: column for column in section.columns}
    coverage = {(c.entry, c.column): c for c in section.coverage}
    by_entry: dict[str, list[Cell]] = {}
    for cell in section.cells.values():
        by_entry.setdefault(cell.entry, []).append(cell)
    for entry in section.entries:
        for cell in by_entry.get(entry.label, ()):
            whole = coverage[cell.entry, cell.column] if cell.category is None else None
            yield _long_row(section, entry, columns[cell.column], cell, whole)


def _long_row(
    section: Section, entry: Entry, column: Column, cell: Cell, coverage: Coverage | None
) -> dict[str, Any]:
    header, compared = entry.run.header, cell.comparison
    return {
        "suite": section.suite,
        "suite_sha256": section.suite_sha256,
        "system": header.system,
        "generation_id": header.generation_id,
        "reward": column.score_set.reward,
        "score_id": column.score_set.score_id,
        "role": column.score_set.role,
        "higher_is_better": column.score_set.higher_is_better,
        "exposure": cell.exposure,
        "category": cell.category if cell.category != "" else NO_CATEGORY,
        **_estimate_fields("mean", cell.mean),
        "samples": cell.samples,
        "planned_samples": coverage.planned if coverage else None,
        "rank": entry.rank,
        "gap": entry.gap,
        "baseline": section.baseline if compared else None,
        **_estimate_fields("difference", compared.difference if compared else None),
        "detectable": compared.detectable if compared else None,
        "win_rate": compared.win_rate if compared else None,
        "p": compared.p if compared else None,
        "p_adjusted": cell.p_adjusted,
        "claim": cell.claim,
        "watermarks": "; ".join(header.watermarks),
    }


def _estimate_fields(name: str, estimate: Estimate | None) -> dict[str, Any]:
    keys = [name, f"{name}_low", f"{name}_high", f"{name}_prompts", f"{name}_interval"]
    if estimate is None:
        return dict.fromkeys(keys)
    e = estimate
    return dict(zip(keys, (e.value, e.low, e.high, e.n, e.method), strict=True))


def _wide_row(section: Section, entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "suite": section.suite,
        "suite_sha256": section.suite_sha256,
        "system": entry.label,
        "generation_id": entry.run.header.generation_id,
        "rank": entry.rank,
        "gap": entry.gap,
    }
    for column in section.columns:
        cell = section.cells.get((entry.label, column.label, None))
        difference = cell.comparison.difference if cell and cell.comparison else None
        row |= {
            column.label: cell.mean.value if cell else None,
            f"{column.label} difference": difference.value if difference else None,
            f"{column.label} low": difference.low if difference else None,
            f"{column.label} high": difference.high if difference else None,
            f"{column.label} claim": cell.claim if cell else None,
        }
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return "" if value is None else value


# JSON


def json_text(board: Board, stamp: Stamp) -> str:
    """Everything, as `SCHEMA` says; what is not defined is null. Numbers have nine significant digits."""
    record = {
        "format": FORMAT,
        "scores_sha256": board.sha256,
        "stamp": asdict(stamp),
        "sections": [_section(section) for section in board.sections],
    }
    return json.dumps(defined(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _section(section: Section) -> dict[str, Any]:
    return {
        "suite": section.suite,
        "suite_sha256": section.suite_sha256,
        "baseline": section.baseline,
        "notes": list(section.notes),
        "systems": [_entry(entry) for entry in section.entries],
        "rewards": [_column(column) for column in section.columns],
        "categories": list(section.categories),
        "cells": [cell_record(cell) for cell in section.cells.values()],
        "methods": [
            {"name": m.name, "systems": list(m.entries), "rewards": _dicts(m.by_column)}
            for m in section.methods
        ],
        "official_hps": [
            {"system": own.entry, "reward": own.column, "styles": dict(own.styles)}
            for own in section.official_hps
        ],
        "coverage": [asdict(coverage) for coverage in section.coverage],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    header = entry.run.header
    return {
        "label": entry.label,
        "system": header.system,
        "generation_id": header.generation_id,
        "generation": dict(header.generation),
        "trained_on": header.details.get("trained_on"),
        "prompts": len(header.planned.prompt_ids),
        "seeds": header.planned.seeds,
        "rank": entry.rank,
        "gap": entry.gap,
        "watermarks": list(header.watermarks),
        "provenance": list(header.provenance),
    }


def _column(column: Column) -> dict[str, Any]:
    own = column.score_set
    return {
        "label": column.label, "reward": own.reward, "score_id": own.score_id, "role": own.role,
        "family": own.family, "higher_is_better": own.higher_is_better,
    }  # fmt: skip


def cell_record(cell: Cell) -> dict[str, Any]:
    """A cell as the schema has it, but for `defined`."""
    return {
        "system": cell.entry,
        "reward": cell.column,
        "category": cell.category,
        "exposure": cell.exposure,
        "mean": asdict(cell.mean),
        "samples": cell.samples,
        "comparison": asdict(cell.comparison) if cell.comparison else None,
        "p_adjusted": cell.p_adjusted,
        "claim": cell.claim,
    }


def _dicts(records: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(record) for name, record in records.items()}


def defined(value: Any) -> Any:
    """With nine significant digits, and null for what is no number."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: defined(item) for key, item in value.items()}
    return [defined(item) for item in value] if isinstance(value, list | tuple) else value


# LaTeX

_LATEX = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$",
    "≈": r"$\approx$", "○": r"$\circ$", "†": r"$\dagger$", "‡": r"$\ddagger$", "–": "--", "…": r"\ldots{}",
}  # fmt: skip


def latex(board: Board, stamp: Stamp) -> str:
    """The headline of each suite as a table for a paper; needs the packages booktabs and amssymb."""
    parts = [f"% scores' SHA-256 {board.sha256}; {stamp.words()}"]
    for section in board.sections:
        rows = headline(section)
        head = list(rows[0])
        lines = [head, *([row[name] for name in head] for row in rows)]
        first, *others = [" & ".join(map(_escaped, line)) + r" \\" for line in lines]
        parts += [
            f"% suite {section.suite}, prompts' SHA-256 {section.suite_sha256}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            *(r"\toprule", first, r"\midrule", *others, r"\bottomrule"),
            r"\end{tabular}",
        ]
    return "\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
