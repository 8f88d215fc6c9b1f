"""The report of the comparison on the embedded world: tables from run folders and training results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.reproduce.archives import CellArchives
from benchmarks.reproduce.tasks import (
    SELECTION,
    TABULATED,
    TrainingResult,
    chosen_rate,
    training_name,
    trial_name,
)
from benchmarks.reproduce.world import (
    BASELINE,
    BUDGET,
    HEADLINE,
    METHODS,
    SAMPLERS,
    VARIANTS,
    Method,
    Scale,
    plan_cells,
)  # fmt: skip
from leaderboards.board import Board, Cell, Section, SeedAgreement
from leaderboards.builder import build
from leaderboards.cells import with_claims
from leaderboards.files import write_board
from leaderboards.markdown import markdown_table
from leaderboards.render import EXPOSURES, MARKS, MARKS_LEGEND, decimals, number, seeds_text
from leaderboards.run_state import RunState
from tcbench.cells import CellRecord, cell_keys
from tcbench.files import write_atomically
from textcraftor.algorithms.base import TRAINED
from textcraftor.config import TrainConfig

TITLES: Mapping[str, str] = {
    BASELINE: "base",
    **{name: method.title for name, method in METHODS.items()},
    **{variant.name: variant.title for variant in VARIANTS},
}

RECORDS = "records"
"""Folder beside the report with the archives that all its numbers come from."""

Row = dict[str, str]


INTRODUCTION = """\
Base: micro. Every system samples the same {prompts} held-out prompts with the same {noises} noises each,
with ddim, 25 steps and guidance 3 unless a row says otherwise. Numbers are paired differences to the base
with 95 % intervals. {legend}; † the system was optimised for this reward, ‡ for one of its family.
world-siglip selected checkpoints; world-blip, world-vqa, world-oracle and world-rule are judges, which took
no part in training or selection."""

BUDGETS = """\
Each method was trained with a compute of about {budget:,}: UNet-forward equivalents, reward calls and
decodes, each counted as one. Gradients through rewards and decoder and the work of a language model are not
counted; the table of costs has the seconds. The second stage of text + UNet had the same budget again, and
one run of RL twice the budget; RAFT's budget includes sampling its images. All methods are trained on the
same prompts, and with the same reward mix unless a row says otherwise. TextCraftor and its variants use a
cosine schedule and averaged weights; RL and the rewriter use a constant rate, as their authors do."""

PAIRS = """\
TextCraftor against each of the others, seed by seed (Holm's correction over all of this table):"""

TRIALS = """\
Each headline method had the same number of trials, on validation prompts. The chosen rate has the greatest
gain in the trained mix at the checkpoint that world-siglip selected; rates at which world-siglip fell
significantly are left out, unless it fell at all of them. Changes are against the start of training: the
base model, or for the rewriter the rewriter before reinforcement learning. Methods outside the headline had
no trials: they use the rate of a related headline method, or their authors'."""


@dataclass(frozen=True)
class _Results:
    """Results in the folder of the work."""

    folder: Path
    scale: Scale
    headline_only: bool = False

    @cached_property
    def runs(self) -> Mapping[str, RunState]:
        """Run folders by system."""
        files = sorted((self.folder / TABULATED).iterdir())
        names = {file.name: file.read_text(encoding="utf-8").strip() for file in files}
        return {system: RunState(self.folder / "runs" / name) for system, name in names.items()}

    def seeds(self, name: str) -> list[str]:
        """Return a method's systems, one per training seed."""
        return [f"{name}-{seed}" for seed in self.scale.seeds_of(METHODS[name])]

    def training(self, method: Method, seed: int) -> TrainingResult:
        """Return the result of a method's training run."""
        rates = method.rates[: self.scale.trials]
        return TrainingResult.read(self.folder, training_name(self.folder, method.name, seed, rates))

    @property
    def headline(self) -> list[str]:
        """Systems of the methods with several training seeds."""
        return [system for name in HEADLINE for system in self.seeds(name)]

    def board(self, names: Sequence[str], baseline: str = BASELINE) -> Board:
        """Return the board of some systems against a baseline."""
        return build([self.runs[name] for name in dict.fromkeys([baseline, *names])], baseline)

    def section(self, names: Sequence[str], baseline: str = BASELINE) -> Section:
        """Return the only section of `board`."""
        (section,) = self.board(names, baseline).sections
        return section


def write_comparison_report(
    folder: Path, docs: Path, scale: Scale, *, headline_only: bool = False
) -> list[Path]:
    """Write boards, pictures, ``report.md`` and the archives of all cells into ``docs``.

    Returns:
        Paths of the files; for the archives the path of their folder.
    """
    results = _Results(folder, scale, headline_only)
    files = write_board(results.board(results.headline), docs / "headline")
    if not headline_only:
        files += write_board(results.board(_exploratory(scale)), docs / "exploratory")
    report = "\n\n".join(_report(results)) + "\n"
    docs.mkdir(parents=True, exist_ok=True)
    write_atomically(docs / "report.md", report.encode())
    CellArchives(docs / RECORDS).add(plan_cells(scale), folder)
    return [docs / "report.md", *files, docs / RECORDS]


def _exploratory(scale: Scale) -> list[str]:
    """Systems with at most one training seed that stand in the second table of the main comparison."""
    trained = [f"{name}-0" for name in METHODS if name not in HEADLINE]
    return [*trained, "style-words", "extend", "best-of-4"]


def _report(results: _Results) -> Iterator[str]:
    scale = results.scale
    yield "# The comparison on the embedded world"
    yield (
        "Written by `tcbench reproduce world-table`. The plan and the interpretation are in "
        "[README.md](README.md)."
    )
    yield INTRODUCTION.format(prompts=scale.prompts, noises=scale.seeds, legend=MARKS_LEGEND)
    yield BUDGETS.format(budget=BUDGET)
    yield "## Main comparison"
    yield (
        f"{scale.training_seeds} training seeds each: the mean of their differences, with the smallest and "
        "the largest in brackets. A method is marked better or worse only if all its seeds are (Holm's "
        "correction over all comparisons of [headline/leaderboard.md](headline/leaderboard.md))."
    )
    yield markdown_table(_methods(results))
    yield PAIRS
    yield markdown_table(_pairwise(results))
    if not results.headline_only:
        yield from _rest(results)
    yield "## Learning rates"
    yield TRIALS
    yield markdown_table(_trials(results))
    yield "## Training cost"
    yield markdown_table(_costs(results))
    yield from _ending(results)


def _rest(results: _Results) -> Iterator[str]:
    """Systems with at most one training seed, and the paper's further tables."""
    yield (
        "Exploratory, with one training seed or none (Holm's correction over "
        "[exploratory/leaderboard.md](exploratory/leaderboard.md)):"
    )
    yield markdown_table(_rows(results.section(_exploratory(results.scale))))
    yield "![The same prompts and noises](exploratory/samples.png)"
    yield from _drill_downs(results)


def _drill_downs(results: _Results) -> Iterator[str]:
    """The paper's further tables, all exploratory. Each is a board with its own correction."""
    tuned = "textcraftor-0"
    for heading, text, names in (
        (
            "Single rewards and all rewards",
            "",
            ["only-aesthetic-0", "only-pick-0", "only-hps-0", tuned],
        ),
        ("With and without the CLIP constraint", "", [tuned, "no-clip-0"]),
        (
            "Tuned steps in training and in sampling",
            "K is the number of last sampling steps that carry gradients in training. The tuned encoder "
            "conditions the last 15 of 25 steps in sampling, or as many as a row says.",
            ["last-5", "last-10", tuned, "last-25", "k-10-last-10", "k-15-0"],
        ),
        (
            "Interpolation",
            "Between the embeddings of the original encoder (strength 0) and the tuned encoder (strength 1).",
            ["strength-0.25", "strength-0.5", "strength-0.75", tuned],
        ),
        (
            "Style mixing",
            "",
            ["only-aesthetic-0", "aesthetic-pick-0.5", "only-pick-0", "only-hps-0", "three-styles"],
        ),
    ):  # fmt: skip
        yield f"## {heading}"
        if text:
            yield text
        yield markdown_table(_rows(results.section(names), names))
    yield "## Samplers"
    yield "The encoder was tuned with ddim; each row is compared with the base model and the same sampler."
    yield markdown_table(
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
    yield "## Reinforcement learning, sampled as in training"
    yield "Training uses eta 1. Each row is compared with the base model at the same eta."
    yield markdown_table(
        [
            *_rows(results.section(["rl-0"]), ["rl-0"]),
            *_rows(results.section(["rl-eta-1"], "micro-eta-1"), ["rl-eta-1"]),
        ]
    )


def _rows(section: Section, names: Sequence[str] | None = None) -> list[Row]:
    """One row per system: its differences to the section's baseline."""
    labels = names or [entry.label for entry in section.entries if entry.label != section.baseline]
    return [
        {"system": _title(label)}
        | {
            column.title: _difference(section.cells.get((label, column.label, None)))
            for column in section.columns
        }
        for label in labels
    ]


def _title(label: str) -> str:
    return TITLES.get(label) or TITLES[label.rpartition("-")[0]]


def _difference(cell: Cell | None) -> str:
    if cell is None or cell.comparison is None:
        return "–"
    difference = cell.comparison.difference
    places = decimals([difference])
    ends = " to ".join(number(end, places, sign=True) for end in (difference.low, difference.high))
    mark = MARKS[cell.claim] + EXPOSURES[cell.exposure]
    missing = f" [n = {difference.n} of {cell.prompts}]" if difference.n < cell.prompts else ""
    return f"{number(difference.value, places, sign=True)} ({ends}) {mark}{missing}"


def _methods(results: _Results) -> list[Row]:
    section = results.section(results.headline)
    return [
        {"method": TITLES[name]}
        | {
            column.title: _agreed(
                [section.cells[system, column.label, None] for system in results.seeds(name)]
            )
            for column in section.columns
        }
        for name in HEADLINE
    ]


def _pairwise(results: _Results) -> list[Row]:
    """The first method against each other one, seeds of the same number paired."""
    first, *others = HEADLINE
    pairs = [
        (other, system, results.section([system], other_system))
        for other in others
        for system, other_system in zip(results.seeds(first), results.seeds(other), strict=True)
    ]
    columns = pairs[0][2].columns
    # All comparisons of the table are one family for Holm's correction, so `with_claims` gets them together.
    family = [section.cells[system, column.label, None] for _, system, section in pairs for column in columns]
    names = (other for other, _, _ in pairs for _ in columns)
    cells: dict[tuple[str, str], list[Cell]] = {}
    for other, cell in zip(names, with_claims(family), strict=True):
        cells.setdefault((other, cell.column), []).append(cell)
    return [
        {"against": TITLES[other]} | {c.title: _agreed(cells[other, c.label]) for c in columns}
        for other in others
    ]


def _agreed(cells: Sequence[Cell]) -> str:
    """Agreement of a method's seeds by one column."""
    agreed = SeedAgreement.of_cells(cells)
    if agreed is None:
        return "–"
    pairs = min(cell.comparison.difference.n for cell in cells if cell.comparison)
    missing = f" [n = {pairs} of {cells[0].prompts}]" if pairs < cells[0].prompts else ""
    return seeds_text(agreed) + EXPOSURES[cells[0].exposure] + missing


def _trials(results: _Results) -> list[Row]:
    rows = []
    for method in METHODS.values():
        rates = method.rates[: results.scale.trials]
        if len(rates) < 2:
            continue
        chosen = chosen_rate(results.folder, method.name, rates)
        for rate in rates:
            trial = TrainingResult.read(results.folder, trial_name(method.name, rate)).validation
            rows.append(
                {
                    "method": method.title,
                    "learning rate": f"{rate:g}",
                    "chosen": "yes" if rate == chosen else "",
                    "checkpoint": str(trial.update),
                    "trained mix": _change(trial.changes[TRAINED]),
                    SELECTION: _change(trial.changes[SELECTION]),
                }
            )
    return rows or [{"method": "none", "learning rate": "one each"}]


def _change(change: Sequence[float | None]) -> str:
    value, low, high = (float("nan") if number is None else number for number in change)
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _costs(results: _Results) -> list[Row]:
    rows = []
    for method in (m for m in METHODS.values() if m.name in HEADLINE or not results.headline_only):
        for seed in results.scale.seeds_of(method):
            rows.append(_cost(results, method, seed))
    return rows


def _cost(results: _Results, method: Method, seed: int) -> Row:
    """Compute and time of a training run."""
    result = results.training(method, seed)
    ledger = result.ledger
    return {
        "method": method.title,
        "seed": str(seed),
        "learning rate": f"{TrainConfig.from_record(result.config).optimiser.lr:g}",
        "updates": str(result.updates),
        "selected at": str(result.validation.update),
        "samples": f"{ledger.samples:,}",
        "UNet forwards (equivalents)": f"{ledger.unet + ledger.unet_saved:,}",
        "reward calls": f"{ledger.reward_calls:,}",
        "decodes": f"{ledger.decodes:,}",
        "compute": f"{ledger.compute:,}",
        "of the budget": f"{ledger.compute / BUDGET:.0%}",
        "from the prefix cache": f"{ledger.unet_saved:,}",
        "seconds, one core": f"{ledger.seconds:.0f}",
        "drift": f"{result.validation.drift:.3g}",
    }


def _ending(results: _Results) -> Iterator[str]:
    """Time, versions, devices and commits."""
    keys = cell_keys(plan_cells(results.scale, headline_only=results.headline_only))
    records = [record for name, key in keys.items() if (record := CellRecord.read(results.folder, name, key))]
    hours = sum(record.seconds for record in records) / 3600
    environments = [environment for run in results.runs.values() for environment in run.header.provenance]
    versions, devices, commits = (
        sorted({text for environment in environments if (text := describe(environment))})
        for describe in (_versions, lambda environment: str(environment.get("device_name") or ""), _commit)
    )
    yield "## Provenance"
    yield (
        f"{len(keys)} cells, {hours:.1f} core-hours (counting only the starts that finished a cell). "
        f"Computed with {' / '.join(versions)} on {' / '.join(devices)}; commit {', '.join(commits)}."
    )


def _versions(environment: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in environment["versions"].items())


def _commit(environment: Mapping[str, Any]) -> str:
    return str(environment.get("commit") or "unknown")[:8]
