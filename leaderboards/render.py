"""Rows of text for the people who read a board: fixed order, and digits that the intervals justify."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from leaderboards.board import GROUPS, Cell, Entry, Group, Section, Standing
from leaderboards.gains import GAIN_GROUPS
from leaderboards.stats import CLAIM_PROMPTS, Comparison, Estimate

MARKS: Mapping[str | None, str] = {
    "better": "▲",
    "worse": "▼",
    "undecided": "≈",
    "too few prompts": "○",
    None: "",
}

MARKS_LEGEND = f"▲ better, ▼ worse, ≈ undecided, ○ no claim below {CLAIM_PROMPTS} prompts"

EXPOSURES: Mapping[str, str] = {"trained-on": "†", "same-family": "‡", "held-out": "", "undeclared": "?"}

NO_CATEGORY = "(none)"
"""What a table calls prompts without a category."""


def standing_rows(section: Section) -> list[dict[str, str]]:
    """The opening table: one row for each method or single system, by rank."""
    groups = [
        group
        for group in GAIN_GROUPS
        if group != "human" or any(group in standing.gains for standing in section.standings)
    ]
    return [
        {
            "rank": "–" if standing.rank is None else str(standing.rank),
            "system": _standing_label(standing),
            **{GROUPS[group].title: _gain(standing, group, section.prompts) for group in groups},
            "verdict": standing.verdict,
        }
        for standing in section.standings
    ]


def _standing_label(standing: Standing) -> str:
    seeds = len(standing.entries)
    return f"{standing.label} ({seeds} seeds)" if seeds > 1 else standing.label


def _gain(standing: Standing, group: Group, prompts: int) -> str:
    gain = standing.gains.get(group)
    return interval(gain.estimate, sign=True, prompts=prompts) if gain and gain.estimate else "–"


def score_rows(section: Section) -> list[dict[str, str]]:
    """One row for each run: its mean score in each column, with the paired difference and its claim."""
    return [_score_row(section, entry) for entry in section.entries]


def _score_row(section: Section, entry: Entry) -> dict[str, str]:
    row = {"system": entry.label + (" (baseline)" if entry.label == section.baseline else "")}
    for column in section.columns:
        row[column.title] = _score(section.cells.get((entry.label, column.label, None)))
    if any(other.gap is not None for other in section.entries):
        row["gap"] = "–" if entry.gap is None else f"{entry.gap:+.2f}"
    if any(section.notes_on(other) for other in section.entries):
        row["notes"] = section.notes_on(entry)
    return row


def _score(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    note = f" [{cell.coverage}]" if cell.coverage else ""
    if cell.mean.n == 0:
        return f"–{note}"
    text = number(cell.mean.value, decimals([cell.mean])) + EXPOSURES[cell.exposure] + note
    if cell.comparison is None:
        return text
    estimate = cell.comparison.difference
    difference = number(estimate.value, decimals([estimate]), sign=True)
    # The baseline may lack prompts that the system has.
    pairs = f", {estimate.n:,} pairs" if estimate.n < cell.mean.n else ""
    return f"{text} ({difference}{pairs}) {MARKS[cell.claim]}"


def comparison_rows(section: Section) -> list[dict[str, str]]:
    """One row for each column and run: its mean, and the comparison with the baseline."""
    return [
        {
            "reward": column.title,
            "system": entry.label + EXPOSURES[cell.exposure],
            "mean": interval(cell.mean),
            "prompts": cell.scored_prompts,
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
    values = (
        interval(compared.difference, sign=True),
        number(compared.detectable, decimals([compared.difference])),
        str(compared.difference.n),
        f"{compared.win_rate:.1%}",
        f"{compared.p:.4f} ({cell.p_adjusted:.4f})",
        f"{MARKS[cell.claim]} {cell.claim}",
    )
    return dict(zip(keys, values, strict=True))


def range_text(mean: float, low: float, high: float, *, ends: bool = True) -> str:
    """A mean difference with its lowest and highest value, such as "+0.31 (+0.28 to +0.35)".

    Args:
        mean: The mean; with ``ends=False`` it stands alone, with the same decimals.
        low: Lowest value: of a training seed, or of an interval.
        high: Highest value.
        ends: Whether to write the lowest and highest value.
    """
    places = decimals([Estimate(mean, low, high, 0, "none")])
    text = number(mean, places, sign=True)
    return f"{text} ({number(low, places, sign=True)} to {number(high, places, sign=True)})" if ends else text


def decimals(estimates: Iterable[Estimate]) -> int | None:
    """Decimals that show two significant digits of the narrowest interval's half-width; None without one."""
    widths = [estimate.half_width for estimate in estimates if estimate.half_width > 0]
    return min(9, max(0, 1 - math.floor(math.log10(min(widths))))) if widths else None


def number(value: float, places: int | None, *, sign: bool = False) -> str:
    """`value` with that many decimals, or with four significant digits for None; "–" for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}{'.4g' if places is None else f'.{places}f'}}"


def interval(estimate: Estimate, *, sign: bool = False, prompts: int = 0) -> str:
    """Value and interval, such as "0.312 [0.301, 0.323]", with a letter for an unusual method.

    If the estimate covers fewer than `prompts` prompts, the text says so.
    """
    note = f" (n = {estimate.n:,} of {prompts:,})" if estimate.n < prompts else ""
    if estimate.n == 0:
        return "–"
    places = decimals([estimate])
    value = number(estimate.value, places, sign=sign)
    if estimate.method == "none":
        return value + note
    ends = ", ".join(number(end, places, sign=sign) for end in (estimate.low, estimate.high))
    letter = {"t": " *t*", "constant": " *c*"}.get(estimate.method, "")
    return f"{value} [{ends}]{letter}{note}"
