"""Reasons why a row of the opening table is not fully comparable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leaderboards.board import GROUPS, Entry
from leaderboards.gains import Gains

SETTINGS = (
    "sampler", "steps", "spacing", "eta", "guidance", "guidance_rescale", "clip_skip", "negative_prompt",
    "size", "dtype", "base_seed", "noise",
)  # fmt: skip
"""Entries of a run's generation settings that systems under comparison should share."""


def cautions(members: Sequence[Entry], gains: Gains) -> Iterator[str]:
    """Return what limits a row, without repetition. A caution about some of the seeds names them.

    Args:
        members: Runs of the row, one for each training seed.
        gains: Gains of the section.
    """
    # What all runs have in common is stated once, above the table.
    everywhere = set.intersection(*(set(entry.run.header.watermarks) for entry in gains.entries))
    reference = next((entry for entry in gains.entries if entry.label == gains.baseline), None)
    by_caution: dict[str, list[str]] = {}
    for entry in members:
        for caution in (
            *_incomplete(entry, gains),
            *(mark for mark in entry.run.header.watermarks if mark not in everywhere),
            *_other_settings(entry, reference),
            *(["training rewards undeclared"] if entry.trained_on is None else []),
            *(f"unknown training reward {name}" for name in entry.unknown),
        ):
            by_caution.setdefault(caution, []).append(entry.label)
    for caution, labels in by_caution.items():
        yield caution if len(labels) == len(members) else f"{', '.join(labels)}: {caution}"


def _incomplete(entry: Entry, gains: Gains) -> Iterator[str]:
    """Images or scores that an entry lacks, whatever the reason."""
    planned, images = entry.run.header.planned.count, entry.run.images
    if images < planned:
        yield f"{images:,} of {planned:,} images, incomplete"
    scored = gains.scored(entry)
    by_count: dict[int, list[str]] = {}
    for column, count in scored.items():
        if count < images:
            by_count.setdefault(count, []).append(column)
    missing = [GROUPS[group].noun for group in gains.missing_groups(entry)]
    present, expected = gains.prompts[entry.label]
    if not scored:
        yield "no image scored" if images < planned else f"incomplete: 0 of {planned:,} images scored"
    elif [list(scored)] == list(by_count.values()):  # the same number is missing for all rewards
        yield f"incomplete: {min(by_count):,} of {planned:,} images scored"
    elif by_count:
        yield "incomplete: " + ", ".join(
            f"{count:,} of {planned:,} images scored by {' and '.join(names)}"
            for count, names in sorted(by_count.items())
        )
    elif missing:
        yield f"incomplete: not scored by all {' and '.join(missing)}"
    elif present < expected:
        yield f"incomplete: {present:,} of {expected:,} prompts"


def _other_settings(entry: Entry, baseline: Entry | None) -> Iterator[str]:
    """Generation settings that differ from the baseline's."""
    if baseline is None or entry is baseline:
        return
    ours, theirs = entry.run.header.generation, baseline.run.header.generation
    if any(key in theirs for key in SETTINGS) and not any(key in ours for key in SETTINGS):
        yield "generation settings not recorded"
        return
    differ = [
        f"{key} {entry.setting(key)} (baseline {baseline.setting(key)})"
        for key in SETTINGS
        if ours.get(key) != theirs.get(key)
    ]
    seeds, reference = (one.run.header.planned.seeds for one in (entry, baseline))
    if seeds != reference:
        differ.append(f"images per prompt {seeds} (baseline {reference})")
    if differ:
        yield f"other settings: {', '.join(differ)}"
