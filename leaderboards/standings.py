"""The opening table: mean gains of each method over the baseline, its rank, and a verdict.

The gain of a method is the average over its training seeds. The interval of a gain is a bootstrap over
prompts and says nothing about further training seeds, so a claim must hold for every seed by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from leaderboards import stats
from leaderboards.board import GROUPS, Cell, CellKey, Claim, Column, Entry, Group, SeedAgreement, Standing
from leaderboards.cautions import cautions
from leaderboards.gains import GAIN_GROUPS, INDEPENDENT, RANKING, Gains
from leaderboards.stats import CLAIM_PROMPTS, Estimate, Values
from leaderboards.verdicts import claims


@dataclass(frozen=True)
class _Row:
    """A standing before its statistics are computed."""

    label: str
    entries: tuple[Entry, ...]
    is_method: bool

    def is_baseline(self, baseline: str | None) -> bool:
        return self.entries[0].label == baseline


Results = Mapping[tuple[str, Group], tuple[Estimate, Claim]]
"""Mean gain of each single run and what it claims, by (entry label, group)."""

_Averages = Mapping[tuple[str, str, str], Estimate]
"""Averages over training seeds, by (row label, "gain", group) and (row label, "difference", column label)."""


def standings(cells: Mapping[CellKey, Cell], gains: Gains) -> tuple[Standing, ...]:
    """The rows of a section's opening table, by rank; rows without a rank come last."""
    baseline = gains.baseline
    results = _results(gains)
    rows = _rows(gains.entries, baseline)
    ranks = _ranks(rows, results, gains)
    averages = _seed_averages(rows, cells, results, gains)
    result = []
    for row in rows:
        mean_gains = _mean_gains(row, results, averages)
        limits = tuple(cautions(row.entries, gains))
        findings = ["baseline"] if row.is_baseline(baseline) else _findings(mean_gains)
        result.append(
            Standing(
                label=row.label,
                entries=tuple(entry.label for entry in row.entries),
                is_method=row.is_method,
                rank=ranks.get(row.label),
                gains=mean_gains,
                differences=_differences(row, cells, gains.columns, averages),
                verdict="; ".join([*findings, *limits]),
                is_complete=not any(map(gains.lacks_scores, row.entries)),
                cautions=limits,
            )
        )
    return tuple(sorted(result, key=lambda standing: _order(standing, baseline)))


def _rows(entries: Sequence[Entry], baseline: str | None) -> list[_Row]:
    """Training seeds of a method in one row. The baseline and systems that declare no method stand alone."""
    grouped: dict[tuple[str, tuple[str, ...] | None], list[Entry]] = {}
    alone: list[_Row] = []
    for entry in entries:
        method = entry.run.header.details.get("method")
        if method and entry.label != baseline:
            grouped.setdefault((method, entry.trained_on), []).append(entry)
        else:
            alone.append(_Row(entry.label, (entry,), is_method=False))
    names = [name for name, _ in grouped]
    methods = [
        # Runs that share a method's name but not their training rewards are different methods.
        _Row(name if names.count(name) == 1 else f"{name} ({members[0].label})", tuple(members), True)
        for (name, _), members in grouped.items()
    ]
    return [*methods, *alone]


def _results(gains: Gains) -> Results:
    """Compare each run's mean gains with the baseline's, which are 0; Holm's correction is over all."""
    compared = stats.comparisons([(values, True) for _, values in gains.series.values()])
    claimed = claims(compared, [True] * len(compared))
    return {
        key: (comparison.difference, claim)
        for key, comparison, (_, claim) in zip(gains.series, compared, claimed, strict=True)
        if claim is not None
    }


def _seed_averages(
    rows: Sequence[_Row], cells: Mapping[CellKey, Cell], results: Results, gains: Gains
) -> _Averages:
    """Intervals of the averages over training seeds, computed together because that is fastest."""
    vectors: dict[tuple[str, str, str], Values] = {}
    for row in rows:
        labels = [entry.label for entry in row.entries]
        if len(labels) == 1:  # the run's own interval is used
            continue
        for group in GAIN_GROUPS:
            if all((label, group) in results for label in labels):
                vectors[row.label, "gain", group] = gains.seed_average(labels, group)
        for column in gains.columns:
            members = [cells.get((label, column.label, None)) for label in labels]
            if all(cell and cell.comparison for cell in members):
                average = gains.seed_average_difference(labels, column.label)
                vectors[row.label, "difference", column.label] = average
    return dict(zip(vectors, stats.mean_intervals(list(vectors.values())), strict=True))


def _mean_gains(row: _Row, results: Results, averages: _Averages) -> dict[Group, SeedAgreement]:
    """Mean gains of a row; a group is left out unless every seed has a gain in it."""
    labels = [entry.label for entry in row.entries]
    result: dict[Group, SeedAgreement] = {}
    for group in GAIN_GROUPS:
        if all((label, group) in results for label in labels):
            seeds = [results[label, group] for label in labels]
            estimate = seeds[0][0] if len(seeds) == 1 else averages[row.label, "gain", group]
            values = tuple(seed.value for seed, _ in seeds)
            result[group] = SeedAgreement.of(values, [claim for _, claim in seeds], estimate)
    return result


def _differences(
    row: _Row, cells: Mapping[CellKey, Cell], columns: Sequence[Column], averages: _Averages
) -> dict[str, SeedAgreement]:
    """By column, the row's difference to the baseline in the reward's units."""
    result: dict[str, SeedAgreement] = {}
    for column in columns:
        members = [cells.get((entry.label, column.label, None)) for entry in row.entries]
        if seeds := SeedAgreement.of_cells(members):
            single = members[0].comparison if len(members) == 1 and members[0] else None
            estimate = single.difference if single else averages[row.label, "difference", column.label]
            result[column.label] = replace(seeds, estimate=estimate)
    return result


def _ranks(rows: Sequence[_Row], results: Results, gains: Gains) -> dict[str, int]:
    """Rank of each row that can be ranked.

    One row beats another if judges resolve their difference that way, or if judges do not resolve it and
    held-out rewards do. A rank begins only where every row above beats every row below: rows whose difference
    is not resolved share a rank.
    """
    groups = [group for group in RANKING if any(key[1] == group for key in results)]
    ranked = [row for row in rows if _can_be_ranked(row, groups, results, gains)]
    if len(ranked) < 2 or not any(row.is_baseline(gains.baseline) for row in ranked):
        return {}

    def beats(one: _Row, other: _Row) -> bool:
        for group in groups:
            if _resolved(one, other, group, results, gains.baseline):
                return True
            if _resolved(other, one, group, results, gains.baseline):
                return False
        return False

    # keeps_up[i, j]: row i cannot be placed wholly below row j, directly or by way of other rows. Cycles
    # (judges resolve a < b, held-out rewards b < c and c < a) end up in one rank.
    keeps_up = np.eye(len(ranked), dtype=bool)
    for (i, one), (j, other) in permutations(enumerate(ranked), 2):
        keeps_up[i, j] = not beats(other, one)
    for k in range(len(ranked)):  # Warshall's transitive closure
        keeps_up |= np.outer(keeps_up[:, k], keeps_up[k])
    above = keeps_up & ~keeps_up.T
    return {row.label: 1 + int(above[:, j].sum()) for j, row in enumerate(ranked)}


def _can_be_ranked(row: _Row, groups: Sequence[Group], results: Results, gains: Gains) -> bool:
    """Whether all of a row's runs declare their training rewards and have all scores, on enough prompts."""
    for entry in row.entries:
        present, expected = gains.prompts[entry.label]
        is_baseline = entry.label == gains.baseline
        has_gains = is_baseline or all((entry.label, group) in results for group in groups)
        if not entry.is_declared or not groups or not has_gains:
            return False
        if present < expected or expected < CLAIM_PROMPTS or not gains.is_complete(entry):
            return False
    return True


def _resolved(one: _Row, other: _Row, group: Group, results: Results, baseline: str | None) -> bool:
    """Whether `one` is better than `other` by a group of rewards.

    Against the baseline every seed must claim it. Between other rows the intervals of all seeds must lie
    apart, which is stricter than comparing the two rows directly.
    """
    if other.is_baseline(baseline):
        return all(results[entry.label, group][1] == "better" for entry in one.entries)
    if one.is_baseline(baseline):
        return all(results[entry.label, group][1] == "worse" for entry in other.entries)
    lowest = min(results[entry.label, group][0].low for entry in one.entries)
    highest = max(results[entry.label, group][0].high for entry in other.entries)
    return lowest > highest


def _findings(gains: Mapping[Group, SeedAgreement]) -> list[str]:
    """Return the verdict on the gains, such as "better by judges, worse by held-out rewards"."""
    independent = [group for group in INDEPENDENT if group in gains]
    findings = [
        f"{claim} by {' and '.join(names)}"
        for claim in ("better", "worse")
        if (names := [GROUPS[group].noun for group in independent if gains[group].claim == claim])
    ]
    if not findings and any(gain.claim == "too few prompts" for gain in gains.values()):
        return [f"no claim: fewer than {CLAIM_PROMPTS} prompts"]
    if not findings and independent:
        findings = ["undecided"]
    trained = "trained-on" in gains and gains["trained-on"].claim == "better"
    if trained and not any(gains[group].claim == "better" for group in independent):
        findings.append(f"better only by its {GROUPS['trained-on'].noun}")
    return [", ".join(findings)] if findings else []


def _order(standing: Standing, baseline: str | None) -> tuple[float | bool | str, ...]:
    """By rank, then by the gains that decide ranks, the baseline's being 0; ties by name."""
    means = [
        -gain.estimate.value if (gain := standing.gains.get(group)) and gain.estimate else 0.0
        for group in RANKING
    ]
    is_baseline = standing.entries == (baseline,)
    return (standing.rank is None, standing.rank or 0, *means, not is_baseline, standing.label)
