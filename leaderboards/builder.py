"""Build a leaderboard from run folders."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leaderboards.board import Board, Cell, Column, Entry, Section
from leaderboards.cautions import SETTINGS
from leaderboards.cells import section_cells
from leaderboards.gains import Gains
from leaderboards.hpsv2 import official_results
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState, find_runs
from leaderboards.scores import RunScores
from leaderboards.standings import standings
from leaderboards.stats import LEVEL, RESAMPLES
from leaderboards.verdicts import group
from tcbench.declarations import CUSTOM_REWARD
from tcbench.errors import MismatchError, UnknownName

ROLES = ("trainable", "selection", "judge")
"""Roles of rewards in the order of their columns."""


def build(
    runs: Path | str | Iterable[Path | str | RunState],
    baseline: str,
    *,
    unknown_rewards: Callable[[Sequence[str]], Sequence[str]] | None = None,
) -> Board:
    """Compare runs with a baseline, suite by suite.

    Args:
        runs: Run folders, folders that hold run folders, or opened runs.
        baseline: Name of the system to compare with, or `system@generation id` where a suite has several runs
            of that system. A suite without exactly one such run gets a note in place of differences.
        unknown_rewards: Function that returns the unknown names among the training rewards of a run that was
            recorded elsewhere. By default names without a recorded family are unknown unless they are on the
            board.

    Returns:
        A board with one section for each suite.

    Raises:
        UnknownName: No run is called `baseline`.
        ValueError: `baseline` is ambiguous on every suite.
        MismatchError: The runs cannot be compared: the same run twice, different prompts under one suite's
            name, or different versions of a reward.
    """
    given = [runs] if isinstance(runs, Path | str) else list(runs)
    opened = [run for one in given for run in _opened(one)]
    scores = {run.path: RunScores.read(run) for run in opened}
    suites: dict[tuple[str, str], list[RunState]] = {}
    for run in sorted(opened, key=lambda run: (run.header.suite, run.header.suite_sha256)):
        suites.setdefault((run.header.suite, run.header.suite_sha256), []).append(run)
    _check_suites(suites)
    rows = [_entries(members) for members in suites.values()]
    _check_baseline(baseline, rows)
    rows = [_with_unknown_rewards(entries, unknown_rewards) for entries in rows]
    sections = [_section(entries, [scores[e.run.path] for e in entries], baseline) for entries in rows]
    return Board(tuple(sections), _digest(scores.values()))


def _opened(run: Path | str | RunState) -> list[RunState]:
    return [run] if isinstance(run, RunState) else find_runs([run])


def _section(entries: Sequence[Entry], scores: Sequence[RunScores], baseline: str) -> Section:
    called = [entry.label for entry in entries if entry.is_called(baseline)]
    reference = called[0] if len(called) == 1 else None
    columns = _columns(entries)
    by_key = {_key(column.score_set): column.label for column in columns}
    table = {
        (entry.label, by_key[key]): scored
        for entry, run in zip(entries, scores, strict=True)
        for scored in run.scored
        if (key := _key(scored.score_set)) in by_key
    }
    by_category = RunScores.categories_of(scores)
    cells = section_cells(entries, columns, table, by_category, reference)
    gains = Gains(entries, columns, table, reference)
    rows = standings(cells, gains)
    by_label = {entry.label: entry for entry in entries}
    header = entries[0].run.header
    return Section(
        suite=header.suite,
        suite_sha256=header.suite_sha256,
        baseline=reference,
        entries=tuple(
            replace(by_label[label], rank=row.rank, gap=gains.gap(by_label[label]))
            for row in rows
            for label in row.entries
        ),
        columns=columns,
        categories=tuple(by_category),
        cells=cells,
        standings=rows,
        official_hps=official_results(entries, columns, table, by_category),
        notes=tuple(_notes(baseline, called, entries, cells.values())),
    )


def _entries(runs: Sequence[RunState]) -> list[Entry]:
    """The entries of one suite, by system. Raises MismatchError for a run given twice."""
    # Different systems may have identical files: tables with the same scores, or a copied model
    seen: dict[tuple[str, str], RunState] = {}
    for run in runs:
        twin = seen.setdefault((run.header.system, run.header.generation_id), run)
        if twin is not run:
            raise MismatchError(f"{twin.path} and {run.path} hold the same run: give only one of them")
    counts = Counter(run.header.system for run in runs)
    rows = [Entry(run.header.system, run) for run in runs]
    rows = [row if counts[row.label] == 1 else replace(row, label=row.full_name) for row in rows]
    return sorted(rows, key=lambda row: row.label)


def _with_unknown_rewards(
    entries: Sequence[Entry], check: Callable[[Sequence[str]], Sequence[str]] | None
) -> list[Entry]:
    """The entries with the training rewards that are unknown: a misspelt name must not count as held out."""
    on_board = {score_set.reward for entry in entries for score_set in entry.run.score_sets}
    result = []
    for entry in entries:
        details = entry.run.header.details
        names = [n for n in entry.trained_on or () if n not in on_board and not CUSTOM_REWARD.fullmatch(n)]
        recorded = details.get("trained_on_unknown")
        if recorded is None:  # recorded by another tool or an earlier version
            without_family = [] if details.get("trained_on_families") else names
            recorded = check(names) if check else without_family
        result.append(replace(entry, unknown=tuple(name for name in names if name in recorded)))
    return result


def _columns(entries: Sequence[Entry]) -> tuple[Column, ...]:
    """Every (reward, score id) that all runs with scores of that reward have: trainable rewards first, judges
    last. Raises MismatchError for a reward whose runs have no score id in common.
    """
    by_entry = {entry.label: entry.run.score_sets for entry in entries}
    by_key = {_key(score_set): score_set for sets in by_entry.values() for score_set in sets}
    ids: dict[str, dict[str, set[str]]] = {}
    for label, sets in by_entry.items():
        for score_set in sets:
            ids.setdefault(score_set.reward, {}).setdefault(label, set()).add(score_set.score_id)
    common = {reward: set.intersection(*by_label.values()) for reward, by_label in ids.items()}
    for reward, shared in common.items():
        if not shared:
            named = ", ".join(
                f"{label} {'/'.join(sorted(versions))}" for label, versions in ids[reward].items()
            )
            raise MismatchError(
                f"the runs were scored by different versions of {reward} (weights, preprocessing or "
                f"precision): {named}; score them again with the same version, or compare them separately"
            )
    kept = [score_set for (reward, score_id), score_set in by_key.items() if score_id in common[reward]]
    ordered = sorted(kept, key=lambda s: (*(s.role == role for role in ROLES[::-1]), *_key(s)))
    columns = [
        Column(s.reward if len(common[s.reward]) == 1 else f"{s.reward}@{s.score_id}", s) for s in ordered
    ]
    declared = [entry for entry in entries if entry.trained_on is not None]
    return tuple(replace(column, group=group(column, declared, columns)) for column in columns)


def _key(score_set: ScoreSet) -> tuple[str, str]:
    return score_set.reward, score_set.score_id


def _check_suites(suites: Mapping[tuple[str, str], Sequence[RunState]]) -> None:
    """Raise MismatchError if one suite name stands for different prompts."""
    seen: dict[str, tuple[str, RunState]] = {}
    for (suite, sha256), (run, *_) in suites.items():
        other, twin = seen.setdefault(suite, (sha256, run))
        if other != sha256:
            raise MismatchError(
                f"{twin.path} and {run.path} have different prompts for suite {suite} "
                f"(SHA-256 {other[:12]} and {sha256[:12]}): compare them separately"
            )


def _check_baseline(name: str, suites: Sequence[Sequence[Entry]]) -> None:
    """Raise unless exactly one run of some suite is called `name`."""
    called = [[entry for entry in entries if entry.is_called(name)] for entries in suites]
    if any(len(matches) == 1 for matches in called):
        return
    if any(called):
        labels = UnknownName.listed(entry.label for matches in called for entry in matches)
        raise ValueError(f"baseline {name!r} matches several runs of a suite; name one of {labels}")
    raise UnknownName("baseline", name, sorted({entry.label for entries in suites for entry in entries}))


def _notes(
    baseline: str, called: Sequence[str], entries: Sequence[Entry], cells: Iterable[Cell]
) -> Iterator[str]:
    """Return notes on the whole section."""
    if not called:
        yield f"No run of the baseline {baseline} on this suite, so there are no differences."
    elif len(called) > 1:
        yield (
            f"Several runs of the baseline {baseline} on this suite, so there are no differences; "
            f"name one of {', '.join(called)}."
        )
    yield from _differing_settings(entries)
    if len({(g.get("base_seed"), g.get("noise")) for g in (e.run.header.generation for e in entries)}) > 1:
        yield "Not all images started from the same noise: they are paired by prompt and sample index only."
    count = sum(cell.category is None and cell.comparison is not None for cell in cells)
    if count > (1 - LEVEL) * (1 + RESAMPLES):
        yield (
            f"{count} comparisons are too many for Holm's correction of a p from {RESAMPLES:,} random sign "
            "flips, so nothing can be claimed: compare fewer systems at a time."
        )


def _differing_settings(entries: Iterable[Entry]) -> Iterator[str]:
    """Name the generation settings that are not the same for all systems."""
    recorded = [entry for entry in entries if any(key in entry.run.header.generation for key in SETTINGS)]
    differ = []
    for key in SETTINGS:
        if key in ("base_seed", "noise"):  # they have a note of their own
            continue
        by_value: dict[str, list[str]] = {}
        for entry in recorded:
            by_value.setdefault(entry.setting(key), []).append(entry.label)
        if len(by_value) > 1:
            values = ", ".join(f"{value} ({', '.join(labels)})" for value, labels in by_value.items())
            differ.append(f"{key} {values}")
    if differ:
        yield f"Settings differ: {'; '.join(differ)}."


def _digest(runs: Iterable[RunScores]) -> str:
    """SHA-256 of the scores. It depends neither on folder names nor on the order of the runs."""
    return hashlib.sha256("".join(sorted(map(_digest_of, runs))).encode()).hexdigest()


def _digest_of(run: RunScores) -> str:
    header = run.run.header
    digest = hashlib.sha256()
    for scored in run.scored:
        score_set = scored.score_set
        head = [header.suite_sha256, header.system, header.generation_id, *_key(score_set)]
        digest.update(json.dumps([*head, sorted(scored.reasons.items())]).encode())
        digest.update(scored.keys.astype("<i8").tobytes() + scored.values.astype("<f8").tobytes())
    return digest.hexdigest()
