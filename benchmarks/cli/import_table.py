"""`tcbench import`: import scores of other tools as a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.cli import options

if TYPE_CHECKING:
    from textcraftor.diffusion.prompts import Prompt

app = typer.Typer(add_completion=False)

_TrainedOn = Annotated[
    str | None,
    typer.Option(
        "--trained-on",
        help="Comma-separated rewards that all systems of the table were trained on, or none. By default: "
        "undeclared.",
    ),
]


@app.command()
def _import_table(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV, TSV, JSON or JSONL file with the columns prompt, reward, score, or prompt and one per "
            "reward. Optional: prompt_id, sample, category, image.",
            show_default=False,
        ),
    ],
    system: Annotated[
        str | None, typer.Option("--system", help="Name of the system on leaderboards.", show_default=False)
    ] = None,
    system_column: Annotated[
        str | None,
        typer.Option(
            "--system-column",
            help="For a table of several systems: the column that names the system of each row. Each system "
            "becomes a run.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option("--suite", "-s", help="Suite of the prompts; by default the table's own prompts."),
    ] = None,
    prompts: options.Prompts = None,
    rewards: Annotated[
        str | None,
        typer.Option("--rewards", "-r", help="Comma-separated names of the columns that are rewards."),
    ] = None,
    lower_is_better: Annotated[
        str | None,
        typer.Option("--lower-is-better", help="Comma-separated rewards whose lower scores are better."),
    ] = None,
    trained_on: _TrainedOn = None,
    out: options.Out = Path("runs"),
) -> None:
    """Import scores that another tool computed as a run, to compare them on a leaderboard.

    Paths in the column `image` are relative to the table. Imported scores count as another version of a
    reward, so they are never compared with scores of the same reward that were computed here.
    """
    from benchmarks.imports import ScoreTable, import_scores

    scores = ScoreTable(
        table,
        system or "",
        out,
        system_column=system_column or "",
        prompts=_suite_prompts(suite, prompts),
        rewards=options.names(rewards) or (),
        lower_is_better=options.names(lower_is_better, "--lower-is-better") or (),
        trained_on=_declared(trained_on),
    )
    for run in import_scores(scores):
        print(run.path)


def _suite_prompts(suite: str | None, prompts: Path | None) -> tuple[str, Sequence[Prompt]] | None:
    """Name and prompts of the suite; None for the table's own prompts."""
    from benchmarks.suites import CUSTOM, prompt_set

    if not suite and prompts is None:
        return None
    suite_prompts = prompt_set(suite or CUSTOM, prompts)
    return suite_prompts.name, suite_prompts.prompts


def _declared(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [] if text == "none" else options.names(text, "--trained-on")
