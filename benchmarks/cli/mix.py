"""`tcbench mix`: combine several text encoders into one system."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


class _Space(StrEnum):
    """Whether embeddings or weights are mixed."""

    EMBEDDING = "embedding"
    WEIGHTS = "weights"


@app.command()
def _mix(
    terms: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=WEIGHT...",
            help="Training run folders, mixes or `original`, with their weights: ckpt/tc=0.7 original=0.3.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new system.")],
    tuned_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of last sampling steps that use the mix; by default that of the first encoder.",
        ),
    ] = None,
    space: Annotated[
        _Space,
        typer.Option(help="embedding: mix embeddings at every step. weights: average weights once."),
    ] = _Space.EMBEDDING,
    normalise: Annotated[
        bool,
        typer.Option(
            "--normalise", help="Divide the weights by their sum. Without this option they must sum to 1."
        ),
    ] = False,
) -> None:
    """Interpolate a tuned text encoder with the original one, or mix the styles of several.

    The result is a folder that `tcbench run --model` accepts.
    """
    import shlex

    from benchmarks.mixes import mix_encoders
    from textcraftor.io.mixing import parse_weights

    weights = parse_weights(terms, normalise=normalise)
    mix_encoders(weights, out, tuned_steps=tuned_steps, in_weights=space is _Space.WEIGHTS)
    print(f"next: {shlex.join(['tcbench', 'run', '--model', str(out)])}")
