"""`tcbench pairs`: a run's images as a folder to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pairs(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write metadata.jsonl into.")],
) -> None:
    """Write a run's images with their prompts as pairs, for `tcbench train --set pairs=FOLDER`.

    With `--set estimator=denoising` on a best-of-N run this is supervised fine-tuning on the best images
    (RAFT); with `--set estimator=direct` it is the direct fine-tuning of TextCraftor's comparison.
    """
    from benchmarks.pairs import write_pairs
    from leaderboards.records import RunFolder

    count = write_pairs(RunFolder(run), out)
    print(f"{out}: {count} pairs")
