"""`tcbench pairs`: write a run's images and prompts as training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def _pairs(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for metadata.jsonl.")],
) -> None:
    """Write a run's images with their prompts as pairs, for `tcbench train --set data.pairs=FOLDER`.

    With `--set algorithm.name=denoising` and a best-of-N run this is supervised fine-tuning on the best
    images (RAFT); with `--set algorithm.name=direct` it is direct fine-tuning, the baseline of TextCraftor.
    """
    from benchmarks.pairs import write_pairs
    from leaderboards.run_state import RunState

    count = write_pairs(RunState(run), out)
    print(f"{out}: {count} pairs")
