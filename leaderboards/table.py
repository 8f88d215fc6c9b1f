"""From run folders to a board: who is compared with whom, in which section, under which label."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from leaderboards.board import Board, Cell, Column, Coverage, Entry, Section
from leaderboards.cells import categories, cells
from leaderboards.hpsv2 import official
from leaderboards.records import ScoreSet
from leaderboards.run_state import RunState
from leaderboards.scores import RewardScores, RunScores, Table, read_scores
from leaderboards.stats import LEVEL, RESAMPLES
from leaderboards.verdicts import gaps, methods, ranks
from tcbench.errors import MismatchError, UnknownName

REASONS = 4
"""Most reasons that a board names for what has no score: each may name a file of its own."""

ROLES = ("trainable", "selection", "judge")


def build(runs: Sequence[RunState], baseline: str) -> Board:
    """Compare `runs` with the run of system `baseline` (or `system@generation id`) on the same suite.

    A suite where no run, or more than one, is called so gets a note in place of differences. Raises
    UnknownName, ValueError where the name is ambiguous on every suite, MismatchError for a run given twice.
    """
    scores = {run.path: read_scores(run) for run in runs}
    suites: dict[tuple[str, str], list[RunState]] = {}
    for run in sorted(runs, key=lambda run: (run.header.suite, run.header.suite_sha256)):
        suites.setdefault((run.header.suite, run.header.suite_sha256), []).append(run)
    _check_suites(suites)
    rows = [_entries(group) for group in suites.values()]
    _check_baseline(baseline, rows)
    sections = [_section(entries, [scores[e.run.path] for e in entries], baseline) for entries in rows]
    return Board(tuple(sections), _digest(scores.values()))


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
    groups = categories(scores)
    found = cells(entries, columns, table, groups, reference)
    places, gap = ranks(entries, columns, found, table, reference), gaps(entries, found, table, reference)
    rows = [replace(row, rank=places.get(row.label), gap=gap.get(row.label)) for row in entries]
    header = entries[0].run.header
    return Section(
        suite=header.suite,
        suite_sha256=header.suite_sha256,
        baseline=reference,
        entries=_ordered(rows, reference),
        columns=columns,
        categories=tuple(groups),
        cells=found,
        methods=tuple(methods(entries, found)),
        official_hps=tuple(official(entries, columns, table, groups)),
        coverage=tuple(_coverage(entries, columns, table)),
        notes=(*_notes(baseline, called, entries), *_limits(found.values())),
    )


def _entries(runs: Sequence[RunState]) -> list[Entry]:
    """The rows of one suite, by system. Raises MismatchError for a run given twice."""
    seen: dict[str, RunState] = {}
    for run in runs:
        twin = seen.setdefault(run.header.generation_id, run)
        if twin is not run:
            raise MismatchError(f"{twin.path} and {run.path} hold the same run: give only one of them")
    many = Counter(run.header.system for run in runs)
    rows = [Entry(run.header.system, run) for run in runs]
    rows = [row if many[row.label] == 1 else replace(row, label=row.full_name) for row in rows]
    return sorted(rows, key=lambda row: row.label)


def _ordered(rows: Sequence[Entry], baseline: str | None) -> tuple[Entry, ...]:
    """The rows by rank, those without one last; among equals the baseline first, then by label."""
    last = len(rows) + 1
    return tuple(sorted(rows, key=lambda row: (row.rank or last, row.label != baseline)))


def _columns(entries: Sequence[Entry]) -> tuple[Column, ...]:
    """Every (reward, score id) that all runs with scores by that reward have: trainable ones first, judges
    after. Raises MismatchError for a reward whose runs have no score id in common.
    """
    sets = {entry.label: entry.run.score_sets for entry in entries}
    found = {_key(score_set): score_set for own in sets.values() for score_set in own}
    ids: dict[str, dict[str, set[str]]] = {}
    for label, own in sets.items():
        for score_set in own:
            ids.setdefault(score_set.reward, {}).setdefault(label, set()).add(score_set.score_id)
    common = {reward: set.intersection(*by_entry.values()) for reward, by_entry in ids.items()}
    for reward, shared in common.items():
        if not shared:
            named = ", ".join(f"{label} {'/'.join(sorted(own))}" for label, own in ids[reward].items())
            raise MismatchError(
                f"the runs were scored by different versions of {reward} (weights, preprocessing or "
                f"precision): {named}; score them anew with one, or compare them apart"
            )
    kept = [score_set for (reward, score_id), score_set in found.items() if score_id in common[reward]]
    ordered = sorted(kept, key=lambda s: (*(s.role == role for role in ROLES[::-1]), *_key(s)))
    return tuple(
        Column(s.reward if len(common[s.reward]) == 1 else f"{s.reward}@{s.score_id}", s) for s in ordered
    )


def _key(score_set: ScoreSet) -> tuple[str, str]:
    return score_set.reward, score_set.score_id


def _check_suites(suites: Mapping[tuple[str, str], Sequence[RunState]]) -> None:
    """A suite has one prompt set. Raises MismatchError."""
    seen: dict[str, tuple[str, RunState]] = {}
    for (suite, sha256), (run, *_) in suites.items():
        other, twin = seen.setdefault(suite, (sha256, run))
        if other != sha256:
            raise MismatchError(
                f"{twin.path} and {run.path} have different prompts (SHA-256 {other[:12]} and {sha256[:12]}) "
                f"by the name of {suite}: compare them apart"
            )


def _check_baseline(name: str, suites: Sequence[Sequence[Entry]]) -> None:
    """Some suite must have exactly one run called `name`."""
    called = [[entry for entry in entries if entry.is_called(name)] for entries in suites]
    if any(len(found) == 1 for found in called):
        return
    if any(called):
        labels = ", ".join(entry.label for found in called for entry in found)
        raise ValueError(f"baseline {name!r} fits several runs of a suite: name one of {labels}")
    raise UnknownName("baseline", name, sorted({entry.label for entries in suites for entry in entries}))


def _notes(baseline: str, called: Sequence[str], entries: Sequence[Entry]) -> Iterator[str]:
    if not called:
        yield f"No run of the baseline {baseline} on this suite: no differences."
    elif len(called) > 1:
        yield f"The baseline {baseline} is ambiguous here: no differences; name one of {', '.join(called)}."
    if len({(g.get("base_seed"), g.get("noise")) for g in (e.run.header.generation for e in entries)}) > 1:
        yield "Not all of these images began as the same noise: they are paired by prompt and number alone."


def _limits(found: Iterable[Cell]) -> Iterator[str]:
    """What so many comparisons cannot show."""
    count = sum(cell.category is None and cell.comparison is not None for cell in found)
    if count > (1 - LEVEL) * (1 + RESAMPLES):
        yield (
            f"{count} comparisons are more than p by {RESAMPLES:,} draws can decide with Holm's correction: "
            "compare fewer systems at a time."
        )


def _coverage(entries: Sequence[Entry], columns: Sequence[Column], table: Table) -> Iterator[Coverage]:
    for entry in entries:
        planned = entry.run.header.planned.count
        for column in columns:
            if (entry.label, column.label) in table:
                yield _covered(entry.label, column.label, planned, table[entry.label, column.label])


def _covered(entry: str, column: str, planned: int, scored: RewardScores) -> Coverage:
    missing = Counter(scored.reasons.values())
    named = dict(sorted(missing.most_common(REASONS)))
    others = missing.total() - sum(named.values())
    rest = {
        "other reasons, which its score files name": others,
        "not tried yet": planned - len(scored.values),
    }
    counts = named | {reason: count for reason, count in rest.items() if count}
    return Coverage(entry, column, len(scored.values) - missing.total(), planned, counts)


def _digest(runs: Iterable[RunScores]) -> str:
    """SHA-256 over the scores, whatever the folders are called and in whatever order they were given."""
    return hashlib.sha256("".join(sorted(map(_digest_of, runs))).encode()).hexdigest()


def _digest_of(run: RunScores) -> str:
    header = run.run.header
    found = hashlib.sha256()
    for scored in run.scored:
        own = scored.score_set
        head = [header.suite_sha256, header.system, header.generation_id, own.reward, own.score_id]
        found.update(json.dumps([*head, sorted(scored.reasons.items())]).encode())
        found.update(scored.keys.astype("<i8").tobytes() + scored.values.astype("<f8").tobytes())
    return found.hexdigest()
