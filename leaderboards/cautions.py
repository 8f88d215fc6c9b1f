"""Why a row of the opening table is not comparable in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from leaderboards.board import Entry, Group
from leaderboards.gains import Counted
from leaderboards.scores import Table

GROUP_WORDS: Mapping[Group, str] = {
    "human": "human votes",
    "judge": "judges",
    "held-out": "held-out rewards",
    "trained-on": "training rewards",
}

SETTINGS = ("sampler", "steps", "spacing", "eta", "guidance", "size", "dtype", "base_seed", "noise")
"""Entries of a run's generation settings that systems under comparison should share."""


def prompt_counts(entries: Sequence[Entry], counted: Counted, scores: Table) -> dict[str, tuple[int, int]]:
    """By entry label, (prompts with all scores that decide ranks, prompts that any entry has them for).

    The two numbers are equal for an entry that lacks nothing. Entries that do not declare their training
    rewards are not ranked, so they do not add prompts to the second number.
    """
    by_entry: dict[str, set[int]] = {}
    for entry in entries:
        prompts = [
            set(scores[entry.label, column.label].by_prompt[0].tolist())
            for group in ("judge", "held-out")
            for column in counted[entry.label, group]
        ]
        by_entry[entry.label] = set.intersection(*prompts) if prompts else set()
    union = set[int]().union(*(by_entry[entry.label] for entry in entries if entry.trained_on is not None))
    return {label: (len(prompts & union), len(union)) for label, prompts in by_entry.items()}


def cautions(
    members: Sequence[Entry],
    entries: Sequence[Entry],
    counted: Counted,
    prompts: Mapping[str, tuple[int, int]],
    scores: Table,
    baseline: str | None,
) -> Iterator[str]:
    """What limits a row, each once. A caution that does not hold for all seeds names those it holds for.

    Args:
        members: Runs of the row, one for each training seed.
        entries: All runs of the section.
        counted: Columns whose gains are averaged.
        prompts: Prompts that each entry has, and should have (`prompt_counts`).
        scores: Scores of the section.
        baseline: Label of the baseline.
    """
    # Marks that all runs bear are said once, above the table.
    everywhere = set.intersection(*(set(entry.run.header.watermarks) for entry in entries))
    reference = next((entry for entry in entries if entry.label == baseline), None)
    by_caution: dict[str, list[str]] = {}
    for entry in members:
        for caution in (
            *_incomplete(entry, entries, counted, prompts, scores),
            *(mark for mark in entry.run.header.watermarks if mark not in everywhere),
            *_other_settings(entry, reference),
            *(["training rewards undeclared"] if entry.trained_on is None else []),
        ):
            by_caution.setdefault(caution, []).append(entry.label)
    for caution, labels in by_caution.items():
        yield caution if len(labels) == len(members) else f"{', '.join(labels)}: {caution}"


def _incomplete(
    entry: Entry,
    entries: Sequence[Entry],
    counted: Counted,
    prompts: Mapping[str, tuple[int, int]],
    scores: Table,
) -> Iterator[str]:
    planned = entry.run.header.planned.count
    scored = max((int(s.known.sum()) for (label, _), s in scores.items() if label == entry.label), default=0)
    missing = [
        GROUP_WORDS[group]
        for group in ("judge", "held-out")
        if not counted.get((entry.label, group)) and any(counted.get((e.label, group)) for e in entries)
    ]
    have, of = prompts.get(entry.label, (0, 0))
    if scored < planned:
        yield f"incomplete: {scored:,} of {planned:,} images scored"
    elif missing:
        yield f"incomplete: not scored by all {' and '.join(missing)}"
    elif have < of:
        yield f"incomplete: {have:,} of {of:,} prompts"


def _other_settings(entry: Entry, baseline: Entry | None) -> Iterator[str]:
    """Generation settings that differ from the baseline's."""
    if baseline is None or entry is baseline:
        return
    ours, theirs = entry.run.header.generation, baseline.run.header.generation
    if any(key in theirs for key in SETTINGS) and not any(key in ours for key in SETTINGS):
        yield "generation settings not on record"
        return
    differ = [
        f"{key} {ours.get(key)} (baseline {theirs.get(key)})"
        for key in SETTINGS
        if ours.get(key) != theirs.get(key)
    ]
    seeds, reference = (one.run.header.planned.seeds for one in (entry, baseline))
    if seeds != reference:
        differ.append(f"images per prompt {seeds} (baseline {reference})")
    if differ:
        yield f"other settings: {', '.join(differ)}"
