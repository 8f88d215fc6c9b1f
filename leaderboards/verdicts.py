"""What the cells of a section say of its rows: exposure, ranks, over-optimisation, agreement of seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from leaderboards.board import Agreement, Cell, CellKey, Column, Entry, Exposure, Method
from leaderboards.scores import Table
from leaderboards.stats import CLAIM_PROMPTS, separated_ranks


def exposure(entry: Entry, column: Column, columns: Iterable[Column]) -> Exposure:
    """Whether the system was trained on this reward, or on another one of its family."""
    declared = entry.run.header.details.get("trained_on")
    if declared is None:
        return "undeclared"
    trained_on = set(declared)
    if column.score_set.reward in trained_on:
        return "trained-on"
    families = {c.score_set.family for c in columns if c.score_set.reward in trained_on}
    families |= set(entry.run.header.details.get("trained_on_families", ()))  # of rewards not on the board
    return "same-family" if column.score_set.family in families else "held-out"


def ranks(
    entries: Sequence[Entry],
    columns: Sequence[Column],
    found: Mapping[CellKey, Cell],
    scores: Table,
    baseline: str | None,
) -> dict[str, float]:
    """Mean rank of each row over the columns that all rows which say what they were trained on have, and that
    are held-out for all of them; 1 is best.

    In a column a row comes after those whose interval of the difference to the baseline lies wholly on the
    better side of its own, which is stricter than comparing the two. Rows that lack prompts others have, or
    share no sample with the baseline, or do not declare what they were trained on, have none; nobody has
    below `stats.CLAIM_PROMPTS` prompts.
    """
    declared = [e for e in entries if e.run.header.details.get("trained_on") is not None]
    fair = [
        column
        for column in columns
        if all(
            exposure(row, column, columns) == "held-out" and (row.label, column.label) in scores
            for row in declared
        )
    ]
    prompts = {
        (e.label, c.label): set(scores[e.label, c.label].by_prompt[0].tolist())
        for e in declared
        for c in fair
    }
    every = {c.label: set().union(*(prompts[e.label, c.label] for e in declared)) for c in fair}
    whole = [
        e.label
        for e in declared
        if all(prompts[e.label, c.label] == every[c.label] for c in fair)
        and (e.label == baseline or all(found[e.label, c.label, None].comparison for c in fair))
    ]
    few = min(map(len, every.values()), default=0) < CLAIM_PROMPTS
    if few or baseline not in whole or len(whole) < 2:
        return {}
    places = [separated_ranks([_gain(found[label, c.label, None]) for label in whole]) for c in fair]
    return dict(zip(whole, map(fmean, zip(*places, strict=True)), strict=True))


def gaps(
    entries: Sequence[Entry], found: Mapping[CellKey, Cell], scores: Table, baseline: str | None
) -> dict[str, float]:
    """The over-optimisation gap of each row that has gains by rewards of both kinds (see `board.Entry`)."""
    by_entry: dict[str, dict[Exposure, list[float]]] = {entry.label: {} for entry in entries}
    for cell in found.values():
        if baseline is None or cell.category is not None or cell.comparison is None:
            continue
        _, values = scores[baseline, cell.column].by_prompt
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        if spread > 0:
            gain = cell.comparison.difference.value / spread * (1 if cell.higher_is_better else -1)
            by_entry[cell.entry].setdefault(cell.exposure, []).append(gain)
    return {
        label: fmean(gains["trained-on"]) - fmean(gains["held-out"])
        for label, gains in by_entry.items()
        if "trained-on" in gains and "held-out" in gains
    }


def methods(entries: Sequence[Entry], found: Mapping[CellKey, Cell]) -> Iterator[Method]:
    """Systems of several training seeds, and what all of them claim."""
    named: dict[str, list[str]] = {}
    for entry in entries:
        if name := entry.run.header.details.get("method"):
            named.setdefault(name, []).append(entry.label)
    for name, labels in named.items():
        columns = dict.fromkeys(key[1] for key in found if key[0] in labels)
        agreed = {
            column: agreement([found.get((label, column, None)) for label in labels]) for column in columns
        }
        yield Method(name, tuple(labels), {column: one for column, one in agreed.items() if one})


def agreement(cells: Sequence[Cell | None]) -> Agreement | None:
    """What the seeds of one method say by one reward; None unless every one was compared."""
    compared = [(cell.comparison.difference.value, cell.claim) for cell in cells if cell and cell.comparison]
    if len(compared) < len(cells):
        return None
    values, claims = [value for value, _ in compared], {claim for _, claim in compared}
    claim = claims.pop() if len(claims) == 1 else "undecided"
    return Agreement(fmean(values), min(values), max(values), claim or "undecided")


def _gain(cell: Cell) -> tuple[float, float]:
    """Ends of the interval of the difference to the baseline, higher being better; its own is 0."""
    if cell.comparison is None:
        return 0.0, 0.0
    difference = cell.comparison.difference
    ends = difference.low, difference.high
    return ends if cell.higher_is_better else (-ends[1], -ends[0])
