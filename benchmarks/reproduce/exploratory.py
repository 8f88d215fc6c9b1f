"""The report's exploratory tables: methods with one training seed, and the paper's further questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.reproduce.results import FIRST, Results
from benchmarks.reproduce.world import BASELINE, HEADLINE, METHODS, SAMPLERS, STRENGTHS, STYLES
from leaderboards.board import Section
from leaderboards.markdown import markdown_table

Row = dict[str, str]

_TUNED = f"{FIRST}-0"
_TEST_TIME = ("best-of-4", "best-of-30", "noise-10", "embedding-10", _TUNED)

_TABLES: Sequence[tuple[str, str, Sequence[str], Sequence[str]]] = (
    (
        "Gradients, balance and constraint",
        "The default bounds the gradient of each step and balances the rewards' gradients at the image. "
        "Other rows leave out one or both (without balance, with the weights of the sum), or hold world-clip "
        "at the untuned model's level by a multiplier.",
        (_TUNED, "unbounded-0", "unbalanced-0", "constrained-0", "plain-0", "detached-0"),
        (),
    ),
    (
        "Single rewards and all rewards",
        "",
        ("only-aesthetic-0", "only-pick-0", "only-hps-0", _TUNED),
        (),
    ),
    ("With and without the CLIP reward", "", (_TUNED, "no-clip-0"), ()),
    (
        "Tuned steps in training and in sampling",
        "K is the number of last sampling steps that carry gradients in training. The default is all 25. "
        "The tuned encoder conditions as many last steps in sampling, or as many as a row says.",
        (_TUNED, "last-5", "last-15", "k-5-0", "k-15-0"),
        (),
    ),
    (
        "Interpolation",
        "Between the embeddings of the original encoder (strength 0) and the tuned encoder (strength 1).",
        (*STRENGTHS, _TUNED),
        ("![Strength 0, 0.25, 0.5, 0.75 and 1](strengths.png)",),
    ),
)
"""Heading, introduction, systems and pictures of each table that compares systems with the base model."""


EXPLORATORY = (*(f"{name}-0" for name in METHODS if name not in HEADLINE), "extend", "best-of-4")
"""Systems with at most one training seed that stand in the second table of the main comparison."""


def exploratory_tables(results: Results) -> Iterator[str]:
    """Yield the tables of systems with at most one training seed, and of the paper's further questions."""
    yield "## Other methods"
    yield (
        "Exploratory, with one training seed or none (Holm's correction over "
        "[exploratory/leaderboard.md](exploratory/leaderboard.md)):"
    )
    yield markdown_table(_rows(results, results.section(EXPLORATORY)))
    yield from _drill_downs(results)


def _drill_downs(results: Results) -> Iterator[str]:
    """The paper's further tables, all exploratory. Each is a board with its own correction."""
    for heading, text, names, pictures in _TABLES:
        yield f"## {heading}"
        if text:
            yield text
        yield markdown_table(_rows(results, results.section(names), names))
        yield from pictures
    yield "## Optimisation at test time"
    yield (
        "Each image is optimised or chosen for the reward mix that the methods are trained on. The compute "
        "of an image is counted as in training, which is paid once."
    )
    rows = _rows(results, results.section(_TEST_TIME), _TEST_TIME)
    yield markdown_table(
        [
            {"system": row["system"], "compute of an image": _compute(results, name), **row}
            for name, row in zip(_TEST_TIME, rows, strict=True)
        ]
    )
    yield "## Style mixing"
    yield (
        "Encoders tuned for colourfulness, for world-aesthetic (shading and shadows) and for darkness, and "
        "mixes of their embeddings: the statistics of their pictures, in the units of the two rewards."
    )
    yield markdown_table([_look(results, name) for name in STYLES])
    yield "![Three styles and mixes of them](styles.png)"
    yield "## Samplers"
    yield "The encoder was tuned with ddim; each row is compared with the base model and the same sampler."
    samplers = {f"{FIRST}-{sampler}": f"{BASELINE}-{sampler}" for sampler in SAMPLERS}
    yield markdown_table(_pairs(results, {_TUNED: BASELINE} | samplers))
    yield "## Reinforcement learning, sampled as in training"
    yield "Training uses eta 1. Each row is compared with the base model at the same eta."
    yield markdown_table(_pairs(results, {"grpo-0": BASELINE, "grpo-eta-1": f"{BASELINE}-eta-1"}))


def _pairs(results: Results, baselines: Mapping[str, str]) -> list[Row]:
    """One row per system, each compared with a baseline of its own."""
    return [
        row
        for name, baseline in baselines.items()
        for row in _rows(results, results.section([name], baseline), [name])
    ]


def _compute(results: Results, name: str) -> str:
    return f"{results.runs[name].header.details['compute_per_image']:,}"


def _look(results: Results, name: str) -> Row:
    looks = results.looks(name)
    return {
        "system": Results.title(name),
        "colourfulness": f"{looks.colourfulness:.1f}",
        "darkness": f"{looks.darkness:.1f}",
    }


def _rows(results: Results, section: Section, names: Sequence[str] | None = None) -> list[Row]:
    """One row per system: its prompts and noises, and its differences to the section's baseline."""
    labels = names or [entry.label for entry in section.entries if entry.label != section.baseline]
    plans = {label: results.runs[label].header.planned for label in labels}
    return [
        {
            "system": Results.title(label),
            "prompts x noises": f"{len(plans[label].prompt_ids)} x {plans[label].seeds}",
        }
        | {
            column.title: Results.text(
                [section.cells.get((label, column.label, None))], len(plans[label].prompt_ids)
            )
            for column in section.columns
        }
        for label in labels
    ]
