"""A board as files for programs and papers: long and wide CSV, JSON with a schema, LaTeX.

The same runs and the same stamp give the same bytes: no clock is read, and digits and order are fixed.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leaderboards.board import Board, Cell, Column, Entry, Section, SeedAgreement, Stamp, Standing
from leaderboards.render import NO_CATEGORY, score_rows
from leaderboards.stats import Estimate

FORMAT = "tcbench.leaderboard/2"

SCHEMA = Path(__file__).with_name("leaderboard.schema.json")
"""JSON Schema (2020-12) of leaderboard.json."""


def table_files(board: Board, stamp: Stamp) -> dict[str, str]:
    """The board's tables by file name."""
    return {
        "leaderboard.csv": _csv_long(board, stamp),
        "leaderboard.wide.csv": _csv_wide(board, stamp),
        "leaderboard.json": _json(board, stamp),
        "leaderboard.tex": _latex(board, stamp),
    }


# CSV


def _csv_long(board: Board, stamp: Stamp) -> str:
    """One line for each cell; `category` is empty for all prompts. Numbers have nine significant digits."""
    rows = (row for section in board.sections for row in _long_rows(section))
    return _csv([row | _stamp_fields(board, stamp) for row in rows])


def _csv_wide(board: Board, stamp: Stamp) -> str:
    """One line for each run; for each reward its mean, difference, ends of the interval, and claim."""
    rows = [_wide_row(section, entry) for section in board.sections for entry in section.entries]
    return _csv([row | _stamp_fields(board, stamp) for row in rows])


def _stamp_fields(board: Board, stamp: Stamp) -> dict[str, Any]:
    return {"scores_sha256": board.sha256, "made_with": stamp.text()}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for row in rows for name in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(names) or ["suite"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _long_rows(section: Section) -> Iterator[dict[str, Any]]:
    columns = {column.label: column for column in section.columns}
    by_entry: dict[str, list[Cell]] = {}
    for cell in section.cells.values():
        by_entry.setdefault(cell.entry, []).append(cell)
    for entry in section.entries:
        for cell in by_entry.get(entry.label, ()):
            yield _long_row(section, entry, columns[cell.column], cell)


def _long_row(section: Section, entry: Entry, column: Column, cell: Cell) -> dict[str, Any]:
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
        "planned_samples": cell.planned,
        "planned_prompts": cell.prompts,
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
        "notes": "; ".join(text for text in (cell.coverage, section.notes_on(entry)) if text),
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
        "images": entry.run.images,
        "planned_images": entry.run.header.planned.count,
        "prompts": section.prompts,
        "notes": section.notes_on(entry),
    }
    for column in section.columns:
        cell = section.cells.get((entry.label, column.label, None))
        difference = cell.comparison.difference if cell and cell.comparison else None
        row |= {
            column.label: cell.mean.value if cell else None,
            f"{column.label} prompts": cell.mean.n if cell else None,
            f"{column.label} images": cell.samples if cell else None,
            f"{column.label} difference": difference.value if difference else None,
            f"{column.label} low": difference.low if difference else None,
            f"{column.label} high": difference.high if difference else None,
            f"{column.label} pairs": difference.n if difference else None,
            f"{column.label} claim": cell.claim if cell else None,
        }
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return "" if value is None else value


# JSON


def _json(board: Board, stamp: Stamp) -> str:
    """The whole board as `SCHEMA` describes it. Undefined values are null, numbers have nine digits."""
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
        "cells": [cell.record() for cell in section.cells.values()],
        "methods": [
            {
                "name": standing.label,
                "systems": list(standing.entries),
                "rewards": {label: _seeds(seeds) for label, seeds in standing.differences.items()},
            }
            for standing in sorted(section.standings, key=lambda standing: standing.entries[0])
            if standing.is_method
        ],
        "standings": [_standing(standing) for standing in section.standings],
        "official_hps": [
            {"system": entry, "reward": column, "styles": dict(styles)}
            for (entry, column), styles in section.official_hps.items()
        ],
        "coverage": [
            _coverage(section, entry, column) for entry in section.entries for column in section.columns
        ],
    }


def _coverage(section: Section, entry: Entry, column: Column) -> dict[str, Any]:
    scored, missing = section.coverage(entry, column)
    return {
        "entry": entry.label,
        "column": column.label,
        "scored": scored,
        "planned": entry.run.header.planned.count,
        "missing": dict(missing),
    }


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "label": standing.label,
        "systems": list(standing.entries),
        "is_method": standing.is_method,
        "rank": standing.rank,
        "gains": {group: _seeds_and_estimate(seeds) for group, seeds in standing.gains.items()},
        "differences": {label: _seeds_and_estimate(seeds) for label, seeds in standing.differences.items()},
        "verdict": standing.verdict,
        "cautions": list(standing.cautions),
    }


def _seeds(seeds: SeedAgreement) -> dict[str, Any]:
    return {"mean": seeds.mean, "low": seeds.low, "high": seeds.high, "claim": seeds.claim}


def _seeds_and_estimate(seeds: SeedAgreement) -> dict[str, Any]:
    estimate = asdict(seeds.estimate) if seeds.estimate else None
    return _seeds(seeds) | {"seeds": list(seeds.seeds), "estimate": estimate}


def _entry(entry: Entry) -> dict[str, Any]:
    header = entry.run.header
    return {
        "label": entry.label,
        "system": header.system,
        "generation_id": header.generation_id,
        "generation": dict(header.generation),
        "trained_on": header.details.get("trained_on"),
        "trained_on_unknown": list(entry.unknown),
        "images": entry.run.images,
        "planned_images": header.planned.count,
        "prompts": len(header.planned.prompt_ids),
        "seeds": header.planned.seeds,
        "rank": entry.rank,
        "gap": entry.gap,
        "watermarks": list(header.watermarks),
        "provenance": list(header.provenance),
    }


def _column(column: Column) -> dict[str, Any]:
    score_set = column.score_set
    return {
        "label": column.label,
        "reward": score_set.reward,
        "score_id": score_set.score_id,
        "role": score_set.role,
        "family": score_set.family,
        "higher_is_better": score_set.higher_is_better,
        "group": column.group,
    }


def defined(value: Any) -> Any:
    """`value` with nine significant digits, and None in place of NaN and infinity."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: defined(item) for key, item in value.items()}
    return [defined(item) for item in value] if isinstance(value, list | tuple) else value


# LaTeX

_LATEX_CHARACTERS = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$",
    "≈": r"$\approx$", "○": r"$\circ$", "†": r"$\dagger$", "‡": r"$\ddagger$", "–": "--", "…": r"\ldots{}",
}  # fmt: skip


def _latex(board: Board, stamp: Stamp) -> str:
    """The scores of each suite as a table for a paper; needs the LaTeX packages booktabs and amssymb."""
    parts = [f"% SHA-256 of the scores {board.sha256}; {stamp.text()}"]
    for section in board.sections:
        rows = score_rows(section)
        header = list(rows[0])
        lines = [header, *([row[name] for name in header] for row in rows)]
        first, *others = [" & ".join(map(_escaped, line)) + r" \\" for line in lines]
        parts += [
            f"% suite {section.suite}, SHA-256 of the prompts {section.suite_sha256}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            *(r"\toprule", first, r"\midrule", *others, r"\bottomrule"),
            r"\end{tabular}",
        ]
    return "\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return "".join(_LATEX_CHARACTERS.get(character, character) for character in text)
