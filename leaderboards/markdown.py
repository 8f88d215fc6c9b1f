"""A board as a Markdown page: legend, one part a suite, pictures, and how the numbers were computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from leaderboards import stats
from leaderboards.board import Agreement, Board, Cell, Coverage, Section
from leaderboards.formats import Stamp
from leaderboards.render import (
    MARKS,
    NO_CATEGORY,
    comparison_rows,
    decimals,
    headline,
    interval,
    number,
    title,
    watermarks,
)
from leaderboards.stats import Estimate

LEGEND = (
    f"▲ better, ▼ worse than the baseline: Holm-adjusted p < {1 - stats.LEVEL:.2f} over all comparisons of "
    f"the table, and the {stats.LEVEL:.0%} interval of the paired difference leaves out zero; ≈ undecided; "
    f"○ fewer than {stats.CLAIM_PROMPTS} prompts, so no claim. † the system was trained on this reward, ‡ on "
    "another one of its family, ? nobody says what it was trained on. ↑ higher is better, ↓ lower is better. "
    "In brackets: the paired difference."
)

METHOD = (
    f"Unit: the prompt, its seeds averaged first. Intervals: {stats.LEVEL:.0%}, studentised bootstrap over "
    f"prompts ({stats.RESAMPLES} resamples, seed {stats.SEED}), at neither end narrower than Student's t; "
    "*t*: the latter alone, where the bootstrap degenerates; *c*: all values are equal. Differences: same "
    "prompts, same seeds. p: two-sided sign-flip permutation test, Holm's over the table; q: Benjamini and "
    "Hochberg's over a reward's categories. Detectable: the least true difference that "
    f"{stats.POWER:.0%} of such runs would show by their interval, without Holm's correction. Rank: mean "
    "rank over the rewards that no ranked system was trained on; a system comes after those whose interval "
    "of the difference lies wholly above its own; who lacks prompts, or does not say what it was trained on, "
    "has none. Gap: mean gain by rewards trained on minus that by held-out ones, in deviations of the "
    "baseline's prompts. A method of several training seeds: their mean (least to greatest), and a mark if "
    "all of them claim it."
)

SHOWN_VERSIONS = ("tcbench", "torch", "diffusers", "transformers")


def markdown(board: Board, stamp: Stamp, pictures: Sequence[str] = ()) -> str:
    """The whole board; `pictures` are file names to show, relative to where the text will lie."""
    parts = [f"# Leaderboard\n\n{LEGEND}"]
    for section in board.sections:
        parts += _section(section)
    parts += [f"![{name.rpartition('.')[0]}]({name})" for name in pictures]
    hashes = [f"prompts of {section.suite} `{section.suite_sha256}`" for section in board.sections]
    made = f"SHA-256: scores `{board.sha256}`, {', '.join(hashes)}. Made with {stamp.words()}."
    parts.append(f"## How\n\n{METHOD}\n\n{made}")
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table with the first row's keys as its head."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *(list(row.values()) for row in rows)]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _section(section: Section) -> Iterator[str]:
    plans = {(len(e.run.header.planned.prompt_ids), e.run.header.planned.seeds) for e in section.entries}
    sizes = ", ".join(f"{prompts} prompts x {seeds}" for prompts, seeds in sorted(plans))
    yield f"## Suite {section.suite} ({sizes})"
    if marks := watermarks(section):
        yield f"**Not a full result: {'; '.join(marks)}.**"
    yield from section.notes
    yield table(headline(section))
    yield from _roles(section)
    for heading, rows in (
        ("Methods, over their training seeds", _method_rows(section)),
        ("Means and paired differences", comparison_rows(section)),
        ("By category (exploratory: q < 0.05 is marked \\*, nothing is claimed)", _category_rows(section)),
        (
            "HPSv2's official arithmetic (10 groups of 80 a style, ddof 0; not an interval)",
            _official_rows(section),
        ),
        ("Coverage", _coverage_rows(section.coverage)),
        ("Runs", _run_rows(section)),
    ):
        if rows:
            yield f"### {heading}\n\n{table(rows)}"


def _roles(section: Section) -> Iterator[str]:
    """Which rewards no system may be trained on, since a reader cannot see that from the numbers."""
    for role, meaning in (("judge", "never trained or selected on"), ("selection", "only to select on")):
        names = [column.label for column in section.columns if column.score_set.role == role]
        if names:
            yield f"{role.capitalize()} ({meaning}): {', '.join(names)}."


def _method_rows(section: Section) -> list[dict[str, str]]:
    """Mean difference of a method's seeds, least and greatest, and what all of them claim."""
    rows = []
    for method in section.methods:
        row = {"method": method.name, "seeds": str(len(method.entries))}
        for column in section.columns:
            agreed = method.by_column.get(column.label)
            row[title(column)] = agreement(agreed) if agreed else "–"
        rows.append(row)
    return rows


def agreement(agreed: Agreement) -> str:
    """Mean, least and greatest of the seeds, and what all of them claim."""
    places = decimals([Estimate(agreed.mean, agreed.low, agreed.high, 0, "none")])
    mean, low, high = (number(value, places, sign=True) for value in (agreed.mean, agreed.low, agreed.high))
    return f"{mean} ({low} to {high}) {MARKS[agreed.claim]}"


def _category_rows(section: Section) -> list[dict[str, str]]:
    rows = []
    for column in section.columns:
        for category in section.categories:
            row = {"reward": title(column), "category": category or NO_CATEGORY}
            for entry in section.entries:
                row[entry.label] = _category_cell(section.cells.get((entry.label, column.label, category)))
            rows.append(row)
    return rows


def _category_cell(cell: Cell | None) -> str:
    if cell is None or cell.mean.n == 0:
        return "–"
    text = f"{interval(cell.mean)}, n = {cell.mean.n}"
    if cell.comparison is None:
        return text
    star = r"\*" if cell.p_adjusted < 1 - stats.LEVEL else ""
    return f"{text}; Δ {interval(cell.comparison.difference, sign=True)}{star}"


def _official_rows(section: Section) -> list[dict[str, str]]:
    return [
        {"system": own.entry, "reward": own.column}
        | {style: f"{mean:.4f} ± {deviation:.4f}" for style, (mean, deviation) in own.styles.items()}
        | {"average": f"{fmean(mean for mean, _ in own.styles.values()):.4f}"}
        for own in section.official_hps
    ]


def _coverage_rows(coverage: Iterable[Coverage]) -> list[dict[str, str]]:
    return [
        {
            "system": c.entry,
            "reward": c.column,
            "scored": f"{c.scored} of {c.planned}",
            "without a score": "; ".join(f"{count} x {reason}" for reason, count in c.missing.items()),
        }
        for c in coverage
    ]


def _run_rows(section: Section) -> list[dict[str, str]]:
    """Where each row comes from: its run, what sets it apart from the others, what it was made with."""
    settings = [entry.run.header.generation for entry in section.entries]
    known = dict.fromkeys(key for own in settings for key in own)
    differ = [key for key in known if len({repr(own.get(key)) for own in settings}) > 1]
    return [
        {
            "system": entry.label,
            "run": entry.run.path.name,
            "settings that differ": ", ".join(f"{key} {_short(own.get(key))}" for key in differ),
            "made with": _environment(entry.run.header.provenance),
            "notes": "; ".join(entry.run.header.watermarks),
        }
        for entry, own in zip(section.entries, settings, strict=True)
    ]


def _environment(provenance: Sequence[Mapping[str, Any]]) -> str:
    """The newest environment of a run in a few words."""
    if not provenance:
        return "not on record"
    newest = provenance[-1]
    versions = newest.get("versions", {})
    words = [f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions]
    words += [str(newest["device"])] if newest.get("device") else []
    words += [f"commit {_short(newest['commit'])}"] if newest.get("commit") else []
    words += [f"{len(provenance)} environments"] if len(provenance) > 1 else []
    return ", ".join(words)


def _short(value: Any) -> str:
    """A setting's value: of a hash the first digits, of a text with spaces its quoted form."""
    if not isinstance(value, str):
        return str(value)
    if len(value) >= 40 and " " not in value:
        return value[:8]
    return repr(value) if " " in value or not value else value
