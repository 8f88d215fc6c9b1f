"""`tcbench import`: scores of other tools as a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import options


def import_table(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV, TSV or JSONL: prompt, reward, score; or prompt and a column a reward. Also prompt_id, "
            "sample, category, image.",
            show_default=False,
        ),
    ],
    system: Annotated[str, typer.Option("--system", help="What a leaderboard calls it.", show_default=False)],
    suite: options.Suite = None,
    prompts: options.Prompts = None,
    rewards: Annotated[
        str | None,
        typer.Option("--rewards", "-r", help="Columns that are rewards, with commas between them."),
    ] = None,
    lower_is_better: Annotated[
        str | None, typer.Option("--lower-is-better", help="Those of the rewards that are better when lower.")
    ] = None,
    trained_on: Annotated[
        str | None,
        typer.Option(
            "--trained-on",
            help="Rewards the system was trained on; 'none' for none; else it counts as undeclared.",
        ),
    ] = None,
    out: options.Out = Path("runs"),
) -> None:
    """Make a run of scores that another tool computed, so that they get these statistics.

    Images lie where the column `image` says, relative to the table. Scores of the same reward by this tool
    and by another are never compared: they are different versions of it.
    """
    from benchmarks.imports import Import, adopt_table
    from benchmarks.suites import CUSTOM, prompt_set

    named = prompt_set(suite or CUSTOM, prompts) if suite or prompts else None
    run = adopt_table(
        Import(
            table,
            system,
            out,
            prompts=(named.name, named.prompts) if named else None,
            rewards=options.names(rewards) or (),
            lower_is_better=options.names(lower_is_better) or (),
            trained_on=_declared(trained_on),
        )
    )
    print(run.path)


def _declared(given: str | None) -> list[str] | None:
    if given is None:
        return None
    return [] if given == "none" else options.names(given)
