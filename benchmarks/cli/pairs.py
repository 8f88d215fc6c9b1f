"""`tcbench pairs`: write a run's images and prompts as training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pairs(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for metadata.jsonl.")],
) -> None:
    """Write a run's images with their prompts as pairs, for `tcbench train --set pairs=FOLDER`.

    With `--set estimator=denoising` and a best-of-N run this is supervised fine-tuning on the best images
    (RAFT); with `--set estimator=direct` it is the direct fine-tuning that TextCraftor is compared with.
    """
    from benchmarks.pairs import write_pairs
    from leaderboards.run_state import RunState

    count = write_pairs(RunState(run), out)
    print(f"{out}: {count} pairs")
