"""The page of the comparison on the embedded world: tables, made of run folders and training logs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.cli.leaderboard import write
from benchmarks.reproduce import steps
from benchmarks.reproduce.cells import keys, seconds
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
from leaderboards.board import Board, Cell, Claim, Section
from leaderboards.journal import write_atomically
from leaderboards.markdown import table
from leaderboards.records import RunFolder
from leaderboards.render import EXPOSURES, MARKS, SHORT_LEGEND, decimals, number, title
from leaderboards.stats import Estimate
from leaderboards.table import build
from textcraftor.checkpoint import TrainFolder, read_checkpoint
from textcraftor.ledger import Ledger
from textcraftor.validation import TRAINED

TITLES: Mapping[str, str] = {
    BASELINE: "as it is",
    **{method.name: method.title for method in METHODS},
    **{variant.name: variant.title for variant in VARIANTS},
}

Row = dict[str, str]


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
    """Boards, pictures and ``report.md`` in `docs`. Returns the files."""
    results = Results(folder, scale, headline_only)
    files = write(results.board(results.headline), docs / "headline")
    if not headline_only:
        files += write(results.board(_exploratory(scale)), docs / "exploratory")
    page = "\n\n".join(_page(results)) + "\n"
    docs.mkdir(parents=True, exist_ok=True)
    write_atomically(docs / "report.md", page.encode())
    return [docs / "report.md", *files]


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
    yield (
        f"Base: micro. Every system is drawn on the same {scale.prompts} held-out prompts with the same "
        f"{scale.seeds} noises each. Numbers are paired differences to the base with their 95 % interval. "
        f"{SHORT_LEGEND.split('; in brackets')[0]}; † the system was optimised for this reward, ‡ for one of "
        "its family. world-siglip chose checkpoints; world-blip, world-oracle and world-rule took part in "
        f"nothing. Each method was given a compute of about {BUDGET:,}: UNet-forward equivalents, reward "
        "calls and decodes, each counted as one."
    )
    yield "## Main comparison"
    yield (
        f"{scale.training_seeds} training seeds each: the mean of their differences, the least and the "
        "greatest in brackets, and a mark if every seed claims it (Holm's correction over the board, "
        "[headline/leaderboard.md](headline/leaderboard.md))."
    )
    yield table(_methods(results))
    yield "TextCraftor against each of the others, seed by seed, each pair a board of its own:"
    yield table(_pairwise(results))
    if not results.headline_only:
        yield from _rest(results)
    yield "## Learning rates"
    yield (
        "Each headline method had as many trials, on validation prompts. Chosen: the greatest gain in the "
        "trained mix at the checkpoint that world-siglip chose, among those where that did not fall "
        "significantly."
    )
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
    rows = []
    for name in HEADLINE:
        labels = results.seeds(name)
        row = {"method": TITLES[name]}
        for column in section.columns:
            row[title(column)] = _agreed([section.cells.get((one, column.label, None)) for one in labels])
        rows.append(row)
    return rows


def _pairwise(results: Results) -> list[Row]:
    """TextCraftor's seeds against the others' of the same number."""
    rows = []
    for name in HEADLINE[1:]:
        sections = [
            results.section([own], other)
            for own, other in zip(results.seeds(HEADLINE[0]), results.seeds(name), strict=True)
        ]
        row = {"against": TITLES[name]}
        for column in sections[0].columns:
            pairs = zip(sections, results.seeds(HEADLINE[0]), strict=True)
            row[title(column)] = _agreed([s.cells.get((own, column.label, None)) for s, own in pairs])
        rows.append(row)
    return rows


def _agreed(found: Sequence[Cell | None]) -> str:
    """Mean difference of several seeds, least and greatest, and what all of them claim."""
    compared = [(cell, cell.comparison.difference) for cell in found if cell and cell.comparison]
    if len(compared) < len(found):
        return "–"
    values, claims = [one.value for _, one in compared], {cell.claim for cell, _ in compared}
    claim: Claim | None = claims.pop() if len(claims) == 1 else "undecided"
    places = decimals(
        [Estimate(fmean(values), min(values), max(values), 0, "none"), *(d for _, d in compared)]
    )
    ends = " to ".join(number(end, places, sign=True) for end in (min(values), max(values)))
    mark = MARKS[claim] + EXPOSURES[compared[0][0].exposure]
    return f"{number(fmean(values), places, sign=True)} ({ends}) {mark}"


def _trials(results: Results) -> list[Row]:
    rows = []
    for method in METHODS:
        rates = method.rates[: results.scale.trials]
        if len(rates) < 2:
            continue
        chosen = steps.chosen_rate(results.folder, method.name, rates)
        for rate in rates:
            found = steps.trial_result(steps.trial_folder(results.folder, method.name, rate))
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
    place = steps.training_folder(results.folder, method.name, seed)
    last = TrainFolder(place).newest()
    assert last is not None  # its cell is done
    ledger = Ledger(**last.record["ledger"])
    found = steps.trial_result(place)
    return {
        "method": method.title,
        "seed": str(seed),
        "learning rate": f"{read_record(place)['config']['lr']:g}",
        "updates": str(last.update),
        "chosen at": str(read_checkpoint(place / "best").update),
        "samples": f"{ledger.samples:,}",
        "UNet forwards (equivalents)": f"{ledger.unet + ledger.unet_saved:,}",
        "reward calls": f"{ledger.reward_calls:,}",
        "decodes": f"{ledger.decodes:,}",
        "compute": f"{ledger.compute:,}",
        "of the budget": f"{ledger.compute / BUDGET:.0%}",
        "from the prefix cache": f"{ledger.unet_saved:,}",
        "seconds, one core": f"{ledger.seconds:.0f}",
        "drift": f"{found.drift:.3g}",
    }


def read_record(place: Path) -> Mapping[str, Any]:
    """The record of a training run."""
    import json

    record: Mapping[str, Any] = json.loads((place / "train.json").read_text(encoding="utf-8"))
    return record


def _ending(results: Results) -> Iterator[str]:
    """Time, and what it was made with."""
    asked = keys(cells(results.scale, headline_only=results.headline_only))
    took = [seconds(results.folder, name, key) or 0.0 for name, key in asked.items()]
    hours = sum(took) / 3600
    provenance = results.runs[BASELINE].header.provenance[-1]
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    where = provenance.get("device_name") or provenance.get("device")
    yield "## How"
    yield (
        f"{len(asked)} cells, {hours:.1f} core-hours (of the starts that ended them). Made with {versions} "
        f"on {where}; commit {provenance.get('commit')}."
    )
