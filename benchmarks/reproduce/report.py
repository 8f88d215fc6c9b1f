"""The page of the comparison: tables, findings and pictures, from run folders and training results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reproduce.archives import CellArchive
from benchmarks.reproduce.ceiling import NAME as CEILING
from benchmarks.reproduce.exploratory import EXPLORATORY, Row, exploratory_tables
from benchmarks.reproduce.findings import COLUMN_GROUPS, RULES, findings
from benchmarks.reproduce.results import FIRST, Results
from benchmarks.reproduce.tasks import SELECTION, TrainingResult, chosen_rate
from benchmarks.reproduce.world import (
    BASELINE,
    BUDGET,
    HEADLINE,
    METHODS,
    PICTURES,
    REWARDS,
    Method,
    Scale,
    plan_cells,
)  # fmt: skip
from leaderboards.board import Column, Section
from leaderboards.files import write_board
from leaderboards.markdown import markdown_table
from leaderboards.pictures import image_table, png, shown_keys
from leaderboards.render import MARKS_LEGEND, decimals, number
from tcbench.cells import CellRecord, cell_keys
from tcbench.files import write_atomically
from textcraftor.algorithms.base import TRAINED
from textcraftor.config import TrainConfig
from textcraftor.diffusion.models import MODELS

RECORDS = "records"
"""Folder beside the report with the archive that all its numbers come from."""

_INTRODUCTION = """\
Base: micro. Every system of the headline samples the same {prompts} held-out prompts with the same {noises}
noises each, other systems the first {exploratory} of these prompts, with ddim, 25 steps and guidance 3 unless
a row says otherwise. Numbers are paired differences to the base with 95 % intervals. {legend}; † the system
was optimised for this reward, ‡ for one of its family. world-siglip selected checkpoints. Judges took no part
in training or selection: world-rule and world-blip judge quality, world-oracle and world-vqa alignment."""

_BUDGETS = """\
Each method was trained with a compute of about {budget:,}: UNet-forward equivalents, reward calls and
decodes, each counted as one. Gradients through rewards and decoder and the work of a language model are not
counted; the table of costs has the seconds. The second stage of text + UNet had the same budget again. RAFT's
budget includes sampling its images, which the table of costs does not. All methods are trained on the same
prompts, and with the same rewards unless a row says otherwise. Those that use the gradients of rewards
balance them at the image, with the weights {balanced}; the rest, and
the variants with a weighted sum, maximise the standardised {summed}. TextCraftor with
a constraint balances with the latter weights and multiplies that of world-clip. Encoders tuned for a look
have the weight 1 for it and for world-clip. TextCraftor and its variants use a cosine schedule and averaged
weights; reinforcement learning and the rewriter use a constant rate, as their authors do."""

_TRIALS = """\
Trials are on validation prompts, with the first seed; [README.md](README.md) says how the ranges came about.
The chosen rate has the greatest gain in the trained mix at the checkpoint that world-siglip selected;
rates at which world-siglip fell by more than a fifth of its deviation are left out, unless it did at all
of them. Changes are against the start of training: the base model, the first stage, or for the rewriter
the rewriter before reinforcement learning. Methods outside the headline use the rate of a related method,
a fixed one (RAFT), or had trials of their own."""

_SUMMARY = ("world-aesthetic", "world-rule", "world-blip", "world-clip", "world-oracle", "world-vqa")


def write_comparison_report(
    folder: Path, docs: Path, scale: Scale, *, headline_only: bool = False
) -> list[Path]:
    """Write boards, pictures, ``report.md``, ``findings.md`` and the archive of all cells into ``docs``.

    Returns:
        Paths of the files; for the archive the path of its folder.
    """
    results = Results(folder, scale, headline_only)
    headline = [system for name in results.headline for system in results.seeds(name)]
    files = write_board(results.board(headline), docs / "headline", samples=False, with_commit=False)
    if not headline_only:
        files += write_board(
            results.board(EXPLORATORY), docs / "exploratory", samples=False, with_commit=False
        )
    for name, (systems, columns) in PICTURES.items():
        if not headline_only or {BASELINE, *headline} >= {*systems}:
            write_atomically(docs / name, _picture(results, systems, columns))
            files.append(docs / name)
    for name, paragraphs in {"report.md": _report(results), "findings.md": _findings(results)}.items():
        write_atomically(docs / name, ("\n\n".join(paragraphs) + "\n").encode())
        files.append(docs / name)
    CellArchive(docs / RECORDS).write(plan_cells(scale), folder)
    return [*files, docs / RECORDS]


def _findings(results: Results) -> Iterator[str]:
    yield "# Findings of the paper, on the embedded world"
    yield (
        "Li et al. 2024 (TextCraftor), on a small model and its prompts about shapes and colours. All "
        "numbers are in [report.md](report.md), and what they mean is in [README.md](README.md)."
    )
    yield markdown_table([finding.row for finding in findings(results)])
    yield RULES


def _picture(results: Results, systems: Sequence[str], columns: int) -> bytes:
    """Return a grid of images as PNG: a row for each system, a column for each of the first prompts."""
    runs = [results.runs[name] for name in systems]
    keys = shown_keys(runs, columns)
    rows = [
        (Results.title(name), [run.image_path(run.samples[key]) for key in keys])
        for name, run in zip(systems, runs, strict=True)
    ]
    return png(image_table(rows, [runs[0].samples[key].prompt for key in keys]))


def _report(results: Results) -> Iterator[str]:
    scale = results.scale
    yield "# The comparison on the embedded world"
    yield (
        "Written by `tcbench reproduce world-table`. The plan and the interpretation are in "
        "[README.md](README.md)."
    )
    yield _INTRODUCTION.format(
        prompts=scale.prompts,
        noises=scale.seeds,
        exploratory=scale.exploratory_prompts,
        legend=MARKS_LEGEND,
    )
    balanced = MODELS[BASELINE].training["rewards.mix"]
    yield _BUDGETS.format(budget=BUDGET, balanced=_code(balanced), summed=_code(REWARDS))
    yield "## Main comparison"
    yield "![The first prompts of each category, the same noises](methods.png)"
    yield "In short, means of all training seeds:"
    yield markdown_table(_summary(results))
    yield (
        f"{scale.training_seeds} training seeds of each trained method: the mean of their differences, with "
        "the smallest and the largest in brackets. A method is marked better or worse only if all its seeds "
        "are (Holm's correction over all comparisons of [headline/leaderboard.md](headline/leaderboard.md)). "
        "Systems without training have an interval over prompts in brackets. The ceiling is not part of the "
        "correction."
    )
    for groups in (("quality, trained", "quality, judges"), ("alignment, trained", "alignment, judges", "")):
        yield markdown_table(_methods(results, groups))
    yield (
        "TextCraftor against each of the others, seed by seed (Holm's correction over all of both tables); "
        "positive numbers are in favour of TextCraftor:"
    )
    for groups in (("quality, trained", "quality, judges"), ("alignment, trained", "alignment, judges", "")):
        yield markdown_table(_pairwise(results, groups))
    yield "What this says of each finding of the paper: [findings.md](findings.md)."
    if not results.headline_only:
        yield from exploratory_tables(results)
    yield "## Learning rates"
    yield _TRIALS
    yield markdown_table(_trials(results))
    yield "## Training cost"
    yield markdown_table(_costs(results))
    yield from _ending(results)


def _code(mix: str) -> str:
    return f"`{mix}`"


def _columns(section: Section, groups: Sequence[str]) -> list[tuple[str, Column]]:
    """Return the headings and columns of some groups; "" is those of no group."""
    by_label = {column.label: column for column in section.columns}
    known = {label for labels in COLUMN_GROUPS.values() for label in labels}
    rest = tuple(label for label in by_label if label not in known)
    return [
        (f"{group}: {by_label[label].title}" if group else by_label[label].title, by_label[label])
        for group in groups
        for label in (COLUMN_GROUPS[group] if group else rest)
    ]


def _methods(results: Results, groups: Sequence[str]) -> list[Row]:
    """The base's means, then differences to it: methods, systems without training, and the ceiling."""
    section = results.against_base
    columns = _columns(section, groups)
    base = {heading: section.cells[BASELINE, column.label, None] for heading, column in columns}
    rows = [
        {"method": "base (mean)"}
        | {heading: number(cell.mean.value, decimals([cell.mean])) for heading, cell in base.items()}
    ]
    for name in results.headline:
        systems = results.seeds(name)
        rows.append(
            {"method": Results.title(name)}
            | {h: Results.text([section.cells[s, c.label, None] for s in systems]) for h, c in columns}
        )
    ceiling = results.section([CEILING])
    return [
        *rows,
        {"method": Results.title(CEILING)}
        | {h: Results.text([ceiling.cells.get((CEILING, c.label, None))]) for h, c in columns},
    ]


def _summary(results: Results) -> list[Row]:
    """The main comparison in few columns and without ranges."""
    section, ceiling = results.against_base, results.section([CEILING])
    return [
        {"difference to the base": Results.title(name)}
        | {
            column: Results.text([against.cells.get((s, column, None)) for s in systems], ranges=False)
            for column in _SUMMARY
        }
        for name in (*results.headline, CEILING)
        for against, systems in [(ceiling if name == CEILING else section, results.seeds(name))]
    ]


def _pairwise(results: Results, groups: Sequence[str]) -> list[Row]:
    """The first method against each other one."""
    columns = _columns(results.against_base, groups)
    return [
        {"against": Results.title(other)}
        | {heading: Results.text(results.against_first[other, column.label]) for heading, column in columns}
        for other in results.headline
        if other != FIRST
    ]


def _trials(results: Results) -> list[Row]:
    rows = []
    for method in _shown(results):
        rates = method.rates[: results.scale.trials]
        if len(rates) < 2:
            continue
        chosen = chosen_rate(results.folder, method.name, rates)
        for rate in rates:
            trial = TrainingResult.of_trial(results.folder, method.name, rate).validation
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


def _costs(results: Results) -> list[Row]:
    return [_cost(results, method, seed) for method, seed in _trained(results)]


def _trained(results: Results) -> Iterator[tuple[Method, int]]:
    """Yield the methods with their training seeds."""
    for method in _shown(results):
        yield from ((method, seed) for seed in results.scale.seeds_of(method))


def _shown(results: Results) -> list[Method]:
    """Return the methods of the report."""
    return [m for m in METHODS.values() if m.name in HEADLINE or not results.headline_only]


def _cost(results: Results, method: Method, seed: int) -> Row:
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


def _ending(results: Results) -> Iterator[str]:
    """Time, versions, devices and commits."""
    keys = cell_keys(plan_cells(results.scale, headline_only=results.headline_only))
    records = [record for name, key in keys.items() if (record := CellRecord.read(results.folder, name, key))]
    hours = sum(record.seconds for record in records) / 3600
    environments = [environment for run in results.runs.values() for environment in run.header.provenance]
    for method, seed in _trained(results):
        environments += results.training(method, seed).environments
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
