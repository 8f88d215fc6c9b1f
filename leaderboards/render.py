"""A board's numbers as the rows that people read: fixed digits, fixed order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from leaderboards.board import Cell, Column, Entry, Section
from leaderboards.stats import CLAIM_PROMPTS, Comparison, Estimate

MARKS: Mapping[str | None, str] = {
    "better": "▲",
    "worse": "▼",
    "undecided": "≈",
    "too few prompts": "○",
    None: "",
}

SHORT_LEGEND = (
    f"▲ better, ▼ worse, ≈ undecided, ○ below {CLAIM_PROMPTS} prompts no claim; in brackets: difference to "
    "the baseline; † trained on this reward, ‡ on its family, ? does not say"
)

NO_CATEGORY = "(none)"
"""What a table calls prompts without a category."""

EXPOSURES: Mapping[str, str] = {"trained-on": "†", "same-family": "‡", "held-out": "", "undeclared": "?"}


def headline(section: Section) -> list[dict[str, str]]:
    """One row a system: its mean by each reward, marked, with the paired difference to the baseline."""
    return [_headline_row(section, entry) for entry in section.entries]


def _headline_row(section: Section, entry: Entry) -> dict[str, str]:
    row = {"system": entry.label + (" (baseline)" if entry.label == section.baseline else "")}
    if any(other.rank is not None for other in section.entries):
        row["rank"] = "–" if entry.rank is None else f"{entry.rank:.2f}"
    for column in section.columns:
        cells = [section.cells.get((other.label, column.label, None)) for other in section.entries]
        places = decimals(estimate for cell in cells if cell for estimate in _estimates(cell))
        row[title(column)] = _headline_cell(cells[section.entries.index(entry)], places)
    if any(other.gap is not None for other in section.entries):
        row["gap"] = "–" if entry.gap is None else f"{entry.gap:+.2f}"
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


def comparison_rows(section: Section) -> list[dict[str, str]]:
    """One row a reward and system: mean, and what the comparison with the baseline says."""
    return [
        {
            "reward": title(column),
            "system": entry.label + EXPOSURES[cell.exposure],
            "mean": interval(cell.mean),
            "prompts": str(cell.mean.n),
            **_comparison_fields(cell, cell.comparison),
        }
        for column in section.columns
        for entry in section.entries
        if (cell := section.cells.get((entry.label, column.label, None)))
    ]


def _comparison_fields(cell: Cell, compared: Comparison | None) -> dict[str, str]:
    keys = ("difference", "detectable", "pairs", "win rate", "p (Holm)", "verdict")
    if compared is None:
        return dict.fromkeys(keys, "")
    shown = (
        interval(compared.difference, sign=True),
        number(compared.detectable, decimals([compared.difference])),
        str(compared.difference.n),
        f"{compared.win_rate:.1%}",
        f"{compared.p:.4f} ({cell.p_adjusted:.4f})",
        f"{MARKS[cell.claim]} {cell.claim}",
    )
    return dict(zip(keys, shown, strict=True))
