"""`tcbench mix`: a system whose text embedding is a weighted sum of several encoders'."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Space(StrEnum):
    """Where encoders are mixed."""

    EMBEDDING = "embedding"
    WEIGHTS = "weights"


def mix(
    terms: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=WEIGHT...", help="Checkpoints, mixes and `original`: ckpt/tc=0.7 original=0.3."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new system.")],
    switch_step: Annotated[
        int | None, typer.Option(min=1, help="The last N steps are the mix's; the first one's by default.")
    ] = None,
    space: Annotated[
        Space, typer.Option(help="Mix embeddings while drawing, or weights once.")
    ] = Space.EMBEDDING,
) -> None:
    """Interpolate a tuned encoder with the original one, or mix the styles of several."""
    import shlex

    from benchmarks.mixes import mix as make
    from textcraftor.io.mixing import parse_weights

    make(parse_weights(terms), out, last=switch_step, in_weights=space is Space.WEIGHTS)
    print(f"next: {shlex.join(['tcbench', 'run', '--model', str(out)])}")
