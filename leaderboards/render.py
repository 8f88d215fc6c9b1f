"""A board's numbers as text: CSV (everything, one line a cell), and the headline rows that people read.

The same runs give the same bytes: no dates, fixed digits, fixed order.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaderboards.board import Board, Cell, Column, Coverage, Entry, Section
from leaderboards.stats import CLAIM_PROMPTS, Estimate

MARKS: Mapping[str | None, str] = {
    "better": "▲",
    "worse": "▼",
    "undecided": "≈",
    "too few prompts": "○",
    None: "",
}

SHORT_LEGEND = (
    f"▲ better, ▼ worse, ≈ undecided, ○ below {CLAIM_PROMPTS} prompts no claim; in brackets: difference to "
    "the baseline; † trained on this reward, ‡ on its family"
)

NO_CATEGORY = "(none)"
"""What a table calls prompts without a category."""

EXPOSURES: Mapping[str, str] = {"trained-on": "†", "same-family": "‡", "held-out": "", "undeclared": "?"}


# CSV


def csv_text(board: Board) -> str:
    """One line a cell: overall (category empty) and by category. Numbers have nine significant digits."""
    rows = [row for section in board.sections for row in _csv_rows(section)]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["suite"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _csv_rows(section: Section) -> Iterator[dict[str, Any]]:
    columns = {column.label: column for column in section.columns}
    coverage = {(c.entry, c.column): c for c in section.coverage}
    for entry in section.entries:
        for cell in section.cells.values():
            if cell.entry == entry.label:
                whole = coverage[cell.entry, cell.column] if cell.category is None else None
                yield _csv_row(section, entry, columns[cell.column], cell, whole)


def _csv_row(
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
        "baseline": section.baseline if compared else None,
        **_estimate_fields("difference", compared.difference if compared else None),
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


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return "" if value is None else value


# rows for people


def headline(section: Section) -> list[dict[str, str]]:
    """One row a system: its mean by each reward, marked, with the paired difference to the baseline."""
    return [_headline_row(section, entry) for entry in section.entries]


def _headline_row(section: Section, entry: Entry) -> dict[str, str]:
    row = {"system": entry.label + (" (baseline)" if entry.label == section.baseline else "")}
    if entry.rank is not None:
        row["rank"] = f"{entry.rank:.2f}"
    for column in section.columns:
        cells = [section.cells.get((other.label, column.label, None)) for other in section.entries]
        places = decimals(estimate for cell in cells if cell for estimate in _estimates(cell))
        row[title(column)] = _headline_cell(cells[section.entries.index(entry)], places)
    if watermarks(section):
        row["notes"] = "; ".join(entry.run.header.watermarks)
    return row


def title(column: Column) -> str:
    """The column's label with an arrow that says which way is better."""
    return f"{column.label} {'↑' if column.score_set.higher_is_better else '↓'}"


def watermarks(section: Section) -> list[str]:
    """What keeps the section's runs from being full results, each once."""
    return sorted({mark for entry in section.entries for mark in entry.run.header.watermarks})


def transposed(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """`rows` turned: a reward a row and a system a column, which suits a terminal."""
    if not rows:
        return []
    first, *others = rows[0]
    return [{"": key} | {row[first]: row[key] for row in rows} for key in others]


def _estimates(cell: Cell) -> list[Estimate]:
    return [cell.mean, cell.comparison.difference] if cell.comparison else [cell.mean]


def _headline_cell(cell: Cell | None, places: int | None) -> str:
    if cell is None or cell.mean.n == 0:
        return "–"
    text = number(cell.mean.value, places) + EXPOSURES[cell.exposure]
    if cell.comparison is None:
        return text
    difference = number(cell.comparison.difference.value, places, sign=True)
    return f"{text} ({difference}) {MARKS[cell.claim]}"


def decimals(estimates: Iterable[Estimate]) -> int | None:
    """How many decimals show two digits of the narrowest interval's half-width; None if none has a width."""
    widths = [estimate.half_width for estimate in estimates if estimate.half_width > 0]
    return min(9, max(0, 1 - math.floor(math.log10(min(widths))))) if widths else None


def number(value: float, places: int | None, *, sign: bool = False) -> str:
    """`value` with that many decimals, or with four significant digits."""
    if math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}{'.4g' if places is None else f'.{places}f'}}"


def interval(estimate: Estimate, *, sign: bool = False) -> str:
    """Value and interval, such as "0.312 [0.301, 0.323]", with a letter for an unusual method."""
    if estimate.n == 0:
        return "–"
    places = decimals([estimate])
    value = number(estimate.value, places, sign=sign)
    if estimate.method == "none":
        return value
    ends = ", ".join(number(end, places, sign=sign) for end in (estimate.low, estimate.high))
    letter = {"t": " *t*", "constant": " *c*"}.get(estimate.method, "")
    return f"{value} [{ends}]{letter}"
