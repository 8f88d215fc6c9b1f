"""A board as a Markdown page: the opening table of each suite, then all details, collapsed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from leaderboards import hpsv2, stats
from leaderboards.board import GROUPS, Board, Cell, Section, SeedAgreement, Stamp
from leaderboards.gains import GAIN_GROUPS
from leaderboards.render import (
    MARKS,
    NO_CATEGORY,
    comparison_rows,
    interval,
    range_text,
    score_rows,
    standing_rows,
)

OPENING = """\
Each number is a mean gain over the baseline, in standard deviations of the baseline's scores, \
with its {level:.0%} interval in brackets: positive is better, and an interval that includes 0 leaves the \
sign open. **Trained on**: rewards that the system was optimised for. **Held out**: other rewards, except \
judges. **Judges**: rewards kept for evaluation only. The rank goes by judges, then by held-out rewards, \
never by rewards trained on; systems whose difference is not resolved share a rank. No rank (–) below \
{prompts} prompts, where scores are missing for any reason, or without declared training rewards."""

SCORES_LEGEND = """\
Mean score, with the difference to the baseline in parentheses. ▲ better or ▼ worse than \
the baseline: the {level:.0%} interval of the paired difference excludes zero, and p < {alpha:.2f} after \
Holm's correction for all comparisons of this table. ≈ undecided. ○ no claim, because there are fewer than \
{prompts} prompts. † the system was trained on this reward. ‡ it was trained on another reward of the same \
family. ? its training rewards are not declared, or one of them is unknown. ↑ higher is better, ↓ lower is \
better. Rows are in the order of the opening table. In brackets: the number of prompts n, or of images, \
where scores are missing. \
Gap: over-optimisation, the mean gain on the rewards that the system was trained on minus the \
mean gain on held-out rewards, judges and human votes together, in standard deviations of the baseline's \
scores. A gap near 0 means that other rewards gain as much."""

COMPARISON_LEGEND = """\
Difference: system minus baseline, on the same prompts and noise. Detectable: the \
smallest true difference that {power:.0%} of such runs would detect, without Holm's correction. Pairs: \
prompts that both runs have. Win rate: share of prompts where the system is better. p: before and, in \
parentheses, after Holm's correction. After an interval, *t* means Student's t alone, because the bootstrap \
degenerates, and *c* that all values are equal."""

METHODS_LEGEND = """\
Mean difference over the training seeds, with the smallest and the largest in parentheses. The mark is the \
claim that every seed makes by itself; ≈ if they differ."""

CATEGORY_LEGEND = """\
Exploratory. Mean with its interval, number of prompts n, and the difference Δ to the baseline. A star marks \
q < {alpha:.2f} (Benjamini and Hochberg's correction over the categories of a reward); nothing is claimed."""

OFFICIAL_LEGEND = """\
Mean of {groups} groups of {group_size} prompts of each style ± their standard deviation (ddof 0), as the \
HPSv2 benchmark computes them. The deviation is not a confidence interval."""

COMPUTATION = """\
The unit is the prompt: its images are averaged first. Intervals are {level:.0%} \
studentised bootstrap intervals over prompts ({resamples} resamples, seed {seed}), at neither end narrower \
than Student's t interval. Differences are paired: same prompts, same noise. p is from a two-sided sign-flip \
permutation test. For a method with several training seeds, the opening table gives the average over its \
seeds with an interval over prompts; a method is better or worse only if every seed is by itself. Ranks: two \
systems are resolved if the intervals of all their seeds lie apart, and a system and the baseline if all \
seeds are better, or all are worse. See docs/leaderboards.md and docs/statistics.md of tcbench."""

PICTURES: Mapping[str, tuple[str, str]] = {
    "differences.png": ("Differences by reward", "Show the picture"),
    "samples.png": ("Images", "Show the same prompts and noise for all systems"),
}
"""Heading and summary of each picture file."""

VERSIONS = ("tcbench", "torch", "diffusers", "transformers")
"""Libraries whose versions are shown with each run."""


def markdown(board: Board, stamp: Stamp, pictures: Sequence[str] = ()) -> str:
    """The whole board as one page.

    Args:
        board: The board.
        stamp: Versions, commit and date.
        pictures: File names among `PICTURES` to show, in the same folder as the page.
    """
    limits = {
        "level": stats.LEVEL, "alpha": 1 - stats.LEVEL, "prompts": stats.CLAIM_PROMPTS, "power": stats.POWER,
        "resamples": f"{stats.RESAMPLES:,}", "seed": stats.SEED,
        "groups": hpsv2.STYLE // hpsv2.GROUP, "group_size": hpsv2.GROUP,
    }  # fmt: skip
    parts = ["# Leaderboard"]
    for section in board.sections:
        parts += _opening(section)
    parts.append(OPENING.format(**limits))
    for name in pictures:
        heading, summary = PICTURES[name]
        parts.append(f"## {heading}\n\n{_collapsed(summary, f'![{heading}]({name})')}")
    for section in board.sections:
        parts.append(f"## Details of suite {section.suite}")
        parts += _details(section, limits)
    hashes = "\n".join(f"- prompts of {s.suite}: SHA-256 `{s.suite_sha256}`" for s in board.sections)
    made = f"- scores: SHA-256 `{board.sha256}`\n{hashes}\n- made with {stamp.text()}"
    how = f"{COMPUTATION.format(**limits)}\n\n{made}"
    parts.append(f"## How the numbers were computed\n\n{_collapsed('Show', how)}")
    return "\n\n".join(parts) + "\n"


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table with the first row's keys as its header."""
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *(list(row.values()) for row in rows)]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _collapsed(summary: str, content: str) -> str:
    # The attribute lets Python-Markdown (the documentation site) read Markdown inside; GitHub ignores it.
    return f'<details markdown="1"><summary>{summary}</summary>\n\n{content}\n\n</details>'


def _opening(section: Section) -> Iterator[str]:
    plans = {(len(e.run.header.planned.prompt_ids), e.run.header.planned.seeds) for e in section.entries}
    sizes = ", ".join(
        f"{prompts:,} prompts × {images} image{'s' if images > 1 else ''}"
        for prompts, images in sorted(plans)
    )
    against = f"; baseline {section.baseline}" if section.baseline else ""
    yield f"## Suite {section.suite} ({sizes}{against})"
    if marks := section.watermarks:
        yield f"**Not a full result: {'; '.join(marks)}.**"
    yield from section.notes
    yield markdown_table(standing_rows(section))
    if groups := _group_lines(section):
        yield groups


def _group_lines(section: Section) -> str:
    """Which rewards each mean is over."""
    lines = []
    for group, names in GROUPS.items():
        labels = [column.label for column in section.columns if column.group == group]
        if labels:
            note = "" if group in GAIN_GROUPS else " (excluded from all means)"
            lines.append(f"{names.title}{note}: {', '.join(labels)}")
    text = "; ".join(lines)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _details(section: Section, limits: Mapping[str, Any]) -> Iterator[str]:
    for heading, legend, rows in (
        ("Scores by reward", SCORES_LEGEND, score_rows(section)),
        ("Methods over their training seeds", METHODS_LEGEND, _method_rows(section)),
        ("Means and paired differences", COMPARISON_LEGEND, comparison_rows(section)),
        ("By category", CATEGORY_LEGEND, _category_rows(section)),
        ("HPSv2's own statistics", OFFICIAL_LEGEND, _official_rows(section)),
        ("Coverage", "Images that have a score, and why the others have none.", _coverage_rows(section)),
        ("Runs", "", _run_rows(section)),
    ):
        if rows:
            text = "\n\n".join([*([legend.format(**limits)] if legend else []), markdown_table(rows)])
            count = f"Show {len(rows)} row{'s' if len(rows) > 1 else ''}"
            yield f"### {heading}\n\n{_collapsed(count, text)}"


def _method_rows(section: Section) -> list[dict[str, str]]:
    """Differences of each method's training seeds."""
    rows = []
    for method in sorted((s for s in section.standings if s.is_method), key=lambda s: min(s.entries)):
        row = {"method": method.label, "systems": ", ".join(method.entries)}
        for column in section.columns:
            seeds = method.differences.get(column.label)
            row[column.title] = _method_cell(seeds, section.prompts) if seeds else "–"
        rows.append(row)
    return rows


def _method_cell(seeds: SeedAgreement, prompts: int) -> str:
    """Mean, smallest and largest difference of a method's seeds, and the mark that all of them share."""
    n = seeds.estimate.n if seeds.estimate else prompts
    missing = f" [n = {n:,} of {prompts:,}]" if n < prompts else ""
    return f"{range_text(seeds.mean, seeds.low, seeds.high)} {MARKS[seeds.claim]}{missing}"


def _category_rows(section: Section) -> list[dict[str, str]]:
    rows = []
    for column in section.columns:
        for category in section.categories:
            row = {"reward": column.title, "category": category or NO_CATEGORY}
            for entry in section.entries:
                row[entry.label] = _category_cell(section.cells.get((entry.label, column.label, category)))
            rows.append(row)
    return rows


def _category_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.mean.n == 0:
        return f"–, {cell.coverage}"
    images = f", {cell.coverage}" if cell.coverage and cell.mean.n == cell.prompts else ""
    text = f"{interval(cell.mean)}, n = {cell.scored_prompts}{images}"
    if cell.comparison is None:
        return text
    star = r"\*" if cell.p_adjusted < 1 - stats.LEVEL else ""
    return f"{text}; Δ {interval(cell.comparison.difference, sign=True)}{star}"


def _official_rows(section: Section) -> list[dict[str, str]]:
    return [
        {"system": entry, "reward": column}
        | {style: f"{mean:.4f} ± {deviation:.4f}" for style, (mean, deviation) in styles.items()}
        | {"average": f"{fmean(mean for mean, _ in styles.values()):.4f}"}
        for (entry, column), styles in section.official_hps.items()
    ]


def _coverage_rows(section: Section) -> list[dict[str, str]]:
    """One row for each run and column, also for runs without scores: an unfinished run has its row too."""
    rows = []
    for entry in section.entries:
        planned, images = entry.run.header.planned.count, entry.run.images
        for column in section.columns or [None]:
            scored, missing = section.coverage(entry, column)
            rows.append(
                {
                    "system": entry.label,
                    "images": f"{images} of {planned}" + (", incomplete" if images < planned else ""),
                    "reward": column.label if column else "–",
                    "scored": f"{scored} of {planned}",
                    "without a score": "; ".join(f"{count} × {reason}" for reason, count in missing.items()),
                }
            )
    return rows


def _run_rows(section: Section) -> list[dict[str, str]]:
    """For each run its folder, the settings that differ between runs, and its environment."""
    settings = [entry.run.header.generation for entry in section.entries]
    keys = dict.fromkeys(key for generation in settings for key in generation)
    differ = [key for key in keys if len({repr(generation.get(key)) for generation in settings}) > 1]
    return [
        {
            "system": entry.label,
            "run": entry.run.path.name,
            "settings that differ": ", ".join(f"{key} {_short(generation.get(key))}" for key in differ),
            "made with": _environment(entry.run.header.provenance),
            "notes": section.notes_on(entry),
        }
        for entry, generation in zip(section.entries, settings, strict=True)
    ]


def _environment(provenance: Sequence[Mapping[str, Any]]) -> str:
    """The newest environment of a run: versions, device, commit."""
    if not provenance:
        return "not recorded"
    newest = provenance[-1]
    versions = newest.get("versions", {})
    words = [f"{name} {versions[name]}" for name in VERSIONS if name in versions]
    words += [str(newest["device"])] if newest.get("device") else []
    words += [f"commit {_short(newest['commit'])}"] if newest.get("commit") else []
    words += [f"{len(provenance)} environments"] if len(provenance) > 1 else []
    return ", ".join(words)


def _short(value: Any) -> str:
    """A setting's value, with the first digits of hashes only; a text with spaces is quoted."""
    text = repr(value) if isinstance(value, str) and (" " in value or not value) else str(value)
    return re.sub(r"\b[0-9a-f]{40,}\b", lambda digits: digits[0][:8], text)
