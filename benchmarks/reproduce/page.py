"""The page of the comparison on the embedded world: tables, made of run folders and training logs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.cli.leaderboard import write
from benchmarks.reproduce import records, steps
from benchmarks.reproduce.cells import keys, record_of
from benchmarks.reproduce.world import (
    BASELINE,
    BUDGET,
    HEADLINE,
    METHODS,
    SAMPLERS,
    VARIANTS,
    Method,
    Scale,
    by_name,
    cells,
    seeds_of,
)  # fmt: skip
from leaderboards.board import Board, Cell, Section
from leaderboards.cells import claimed
from leaderboards.markdown import agreement as agreement_text
from leaderboards.markdown import table
from leaderboards.records import RunFolder
from leaderboards.render import EXPOSURES, MARKS, SHORT_LEGEND, decimals, number, title
from leaderboards.table import build
from leaderboards.verdicts import agreement
from tcbench.files import write_atomically
from textcraftor.validation import TRAINED

TITLES: Mapping[str, str] = {
    BASELINE: "as it is",
    **{method.name: method.title for method in METHODS},
    **{variant.name: variant.title for variant in VARIANTS},
}

RECORDS = "records"
"""Folder beside the page with what every number of it was made of."""

Row = dict[str, str]


INTRODUCTION = """\
Base: micro. Every system is drawn on the same {prompts} held-out prompts with the same {noises} noises each,
with 25 steps of ddim and guidance 3 where nothing else is said. Numbers are paired differences to the base
with their 95 % interval. {legend}; † the system was optimised for this reward, ‡ for one of its family.
world-siglip chose checkpoints; world-blip, world-oracle and world-rule took part in nothing."""

BUDGETS = """\
What is trained was given a compute of about {budget:,}: UNet-forward equivalents, reward calls and decodes,
each counted as one. Gradients through rewards and decoder, and what a language model does, are not counted;
seconds stand beside. The second stage of text + UNet was given as much again, and one run of RL twice as
much; RAFT's includes its images. All learn from the same prompts, by the same mix of rewards where nothing
else is said. TextCraftor and its kin have a cosine schedule and averaged weights; RL and the rewriter a
constant rate, as their authors do."""

PAIRS = """\
TextCraftor against each of the others, its seeds against theirs of the same number (Holm's correction over
all of this table):"""

TRIALS = """\
Each headline method had as many trials, on validation prompts. Chosen: the greatest gain in the trained mix
at the checkpoint that world-siglip chose, among the rates where that did not fall significantly; among all
where it fell with each. Changes are against the run's beginning: the base model, and for the rewriter the
one that was only taught. Methods below the headline were not tried: they have the rate of their kin there, or
their authors'."""


@dataclass(frozen=True)
class Results:
    """What the cells left in their folder."""

    folder: Path
    scale: Scale
    headline_only: bool = False

    @cached_property
    def runs(self) -> Mapping[str, RunFolder]:
        """By system."""
        named = sorted((self.folder / steps.TABULATED).iterdir())
        return {file.name: RunFolder(self.folder / "runs" / file.read_text().strip()) for file in named}

    def seeds(self, name: str) -> list[str]:
        """A method's systems."""
        return [f"{name}-{seed}" for seed in seeds_of(by_name(name), self.scale)]

    def training(self, method: Method, seed: int) -> steps.Result:
        """What is kept of a method's training run."""
        rates = method.rates[: self.scale.trials]
        return steps.result(self.folder, steps.training_name(self.folder, method.name, seed, rates))

    @property
    def headline(self) -> list[str]:
        """Systems of the methods with several training seeds."""
        return [one for name in HEADLINE for one in self.seeds(name)]

    def board(self, names: Sequence[str], baseline: str = BASELINE) -> Board:
        """Of these systems, against a baseline among them."""
        return build([self.runs[name] for name in dict.fromkeys([baseline, *names])], baseline)

    def section(self, names: Sequence[str], baseline: str = BASELINE) -> Section:
        """The board's only one."""
        (section,) = self.board(names, baseline).sections
        return section


def write_page(folder: Path, docs: Path, scale: Scale, *, headline_only: bool = False) -> list[Path]:
    """Boards, pictures, ``report.md`` and the records of all cells in `docs`. Returns the files, the records'
    folder for theirs.
    """
    results = Results(folder, scale, headline_only)
    files = write(results.board(results.headline), docs / "headline")
    if not headline_only:
        files += write(results.board(_exploratory(scale)), docs / "exploratory")
    page = "\n\n".join(_page(results)) + "\n"
    docs.mkdir(parents=True, exist_ok=True)
    write_atomically(docs / "report.md", page.encode())
    records.keep(cells(scale), folder, docs / RECORDS)
    return [docs / "report.md", *files, docs / RECORDS]


def _exploratory(scale: Scale) -> list[str]:
    """Everything of one seed that is a column of the main table."""
    trained = [f"{method.name}-0" for method in METHODS if method.name not in HEADLINE]
    return [*trained, "style-words", "extend", "best-of-4"]


def _page(results: Results) -> Iterator[str]:
    scale = results.scale
    yield "# The comparison on the embedded world"
    yield (
        "Made by `tcbench reproduce world-table`; not typed. What may be concluded from it, and why, is in "
        "[README.md](README.md)."
    )
    legend = SHORT_LEGEND.split("; in brackets")[0]
    yield INTRODUCTION.format(prompts=scale.prompts, noises=scale.seeds, legend=legend)
    yield BUDGETS.format(budget=BUDGET)
    yield "## Main comparison"
    yield (
        f"{scale.training_seeds} training seeds each: the mean of their differences, the least and the "
        "greatest in brackets, and a mark if every seed claims it (Holm's correction over all comparisons of "
        "[headline/leaderboard.md](headline/leaderboard.md))."
    )
    yield table(_methods(results))
    yield PAIRS
    yield table(_pairwise(results))
    if not results.headline_only:
        yield from _rest(results)
    yield "## Learning rates"
    yield TRIALS
    yield table(_trials(results))
    yield "## What training cost"
    yield table(_costs(results))
    yield from _ending(results)


def _rest(results: Results) -> Iterator[str]:
    """What has one training seed, and the paper's further tables."""
    yield (
        "One training seed or none, so exploratory (Holm's correction over "
        "[exploratory/leaderboard.md](exploratory/leaderboard.md)):"
    )
    yield table(_rows(results.section(_exploratory(results.scale))))
    yield "![The same prompts and noises](exploratory/samples.png)"
    yield from _drill_downs(results)


def _drill_downs(results: Results) -> Iterator[str]:
    """The paper's further tables. Each is a board of its own, and exploratory."""
    tuned = "textcraftor-0"
    for heading, words, names in (
        (
            "Single rewards against all",
            "",
            ["only-aesthetic-0", "only-pick-0", "only-hps-0", tuned],
        ),
        ("With and without the CLIP constraint", "", [tuned, "no-clip-0"]),
        (
            "Train K, draw K",
            "K steps carry gradients in training; the last so many of 25 are the tuned encoder's in drawing.",
            ["last-5", "last-10", tuned, "last-25", "k-10-last-10", "k-15-0"],
        ),
        (
            "Interpolation",
            "Of the tuned encoder's embedding with the original's.",
            ["strength-0.25", "strength-0.5", "strength-0.75", tuned],
        ),
        (
            "Style mixing",
            "",
            ["only-aesthetic-0", "aesthetic-pick-0.5", "only-pick-0", "only-hps-0", "three-styles"],
        ),
    ):  # fmt: skip
        yield f"## {heading}"
        if words:
            yield words
        yield table(_rows(results.section(names), names))
    yield "## Samplers"
    yield "The encoder was tuned with ddim; each row is against the base model with the same sampler."
    yield table(
        [
            *_rows(results.section([tuned]), [tuned]),
            *(
                row
                for sampler in SAMPLERS
                for row in _rows(
                    results.section([f"textcraftor-{sampler}"], f"micro-{sampler}"),
                    [f"textcraftor-{sampler}"],
                )
            ),
        ]
    )
    yield "## Reinforcement learning, drawn as it was trained"
    yield "At eta 0 against the base at eta 0, and at eta 1 against the base at eta 1."
    yield table(
        [
            *_rows(results.section(["rl-0"]), ["rl-0"]),
            *_rows(results.section(["rl-eta-1"], "micro-eta-1"), ["rl-eta-1"]),
        ]
    )


def _rows(section: Section, names: Sequence[str] | None = None) -> list[Row]:
    """A line a system: its differences to the section's baseline."""
    labels = names or [entry.label for entry in section.entries if entry.label != section.baseline]
    return [
        {"system": _title(label)}
        | {
            title(column): _difference(section.cells.get((label, column.label, None)))
            for column in section.columns
        }
        for label in labels
    ]


def _title(label: str) -> str:
    return TITLES.get(label) or TITLES[label.rpartition("-")[0]]


def _difference(cell: Cell | None) -> str:
    if cell is None or cell.comparison is None:
        return "–"
    found = cell.comparison.difference
    places = decimals([found])
    ends = " to ".join(number(end, places, sign=True) for end in (found.low, found.high))
    mark = MARKS[cell.claim] + EXPOSURES[cell.exposure]
    return f"{number(found.value, places, sign=True)} ({ends}) {mark}"


def _methods(results: Results) -> list[Row]:
    section = results.section(results.headline)
    return [
        {"method": TITLES[name]}
        | {
            title(column): _agreed([section.cells[one, column.label, None] for one in results.seeds(name)])
            for column in section.columns
        }
        for name in HEADLINE
    ]


def _pairwise(results: Results) -> list[Row]:
    """TextCraftor's seeds against the others' of the same number: one family for Holm's correction."""
    first, *others = HEADLINE
    pairs = [
        (other, results.section([own], theirs), own)
        for other in others
        for own, theirs in zip(results.seeds(first), results.seeds(other), strict=True)
    ]
    columns = pairs[0][1].columns
    family = [section.cells[own, column.label, None] for _, section, own in pairs for column in columns]
    found: dict[tuple[str, str], list[Cell]] = {}
    names = (other for other, _, _ in pairs for _ in columns)
    for other, cell in zip(names, claimed(family), strict=True):
        found.setdefault((other, cell.column), []).append(cell)
    return [
        {"against": TITLES[other]} | {title(c): _agreed(found[other, c.label]) for c in columns}
        for other in others
    ]


def _agreed(cells: Sequence[Cell]) -> str:
    """What the seeds of a method come to by one reward."""
    agreed = agreement(cells)
    return agreement_text(agreed) + EXPOSURES[cells[0].exposure] if agreed else "–"


def _trials(results: Results) -> list[Row]:
    rows = []
    for method in METHODS:
        rates = method.rates[: results.scale.trials]
        if len(rates) < 2:
            continue
        chosen = steps.chosen_rate(results.folder, method.name, rates)
        for rate in rates:
            found = steps.result(results.folder, steps.trial_name(method.name, rate)).validation
            rows.append(
                {
                    "method": method.title,
                    "learning rate": f"{rate:g}",
                    "chosen": "yes" if rate == chosen else "",
                    "checkpoint": str(found.update),
                    "trained mix": _change(found.changes[TRAINED]),
                    steps.SELECTION: _change(found.changes[steps.SELECTION]),
                }
            )
    return rows or [{"method": "none", "learning rate": "one each"}]


def _change(found: Sequence[float | None]) -> str:
    value, low, high = (float("nan") if one is None else one for one in found)
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _costs(results: Results) -> list[Row]:
    rows = []
    for method in (m for m in METHODS if m.name in HEADLINE or not results.headline_only):
        for seed in seeds_of(method, results.scale):
            rows.append(_cost(results, method, seed))
    return rows


def _cost(results: Results, method: Method, seed: int) -> Row:
    """A training run's ledger."""
    found = results.training(method, seed)
    ledger = found.ledger
    return {
        "method": method.title,
        "seed": str(seed),
        "learning rate": f"{found.config['lr']:g}",
        "updates": str(found.updates),
        "chosen at": str(found.validation.update),
        "samples": f"{ledger.samples:,}",
        "UNet forwards (equivalents)": f"{ledger.unet + ledger.unet_saved:,}",
        "reward calls": f"{ledger.reward_calls:,}",
        "decodes": f"{ledger.decodes:,}",
        "compute": f"{ledger.compute:,}",
        "of the budget": f"{ledger.compute / BUDGET:.0%}",
        "from the prefix cache": f"{ledger.unet_saved:,}",
        "seconds, one core": f"{ledger.seconds:.0f}",
        "drift": f"{found.validation.drift:.3g}",
    }


def _ending(results: Results) -> Iterator[str]:
    """Time, and what it was made with."""
    asked = keys(cells(results.scale, headline_only=results.headline_only))
    done = [record for name, key in asked.items() if (record := record_of(results.folder, name, key))]
    hours = sum(record.seconds for record in done) / 3600
    environments = [one for run in results.runs.values() for one in run.header.provenance]
    versions, devices, commits = (
        sorted({words for one in environments if (words := read(one))})
        for read in (_versions, lambda one: str(one.get("device_name") or ""), _commit)
    )
    yield "## How"
    yield (
        f"{len(asked)} cells, {hours:.1f} core-hours (of the starts that ended them). Made with "
        f"{' / '.join(versions)} on {' / '.join(devices)}; commit {', '.join(commits)}."
    )


def _versions(environment: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in environment["versions"].items())


def _commit(environment: Mapping[str, Any]) -> str:
    return str(environment.get("commit") or "unknown")[:8]
