"""A run's images with their prompts, as a folder to train on: of a best-of-N run, what RAFT imitates."""

from __future__ import annotations

import json
import os
from pathlib import Path

from leaderboards.records import RunFolder
from tcbench.files import write_atomically
from textcraftor.io.pairs import DECLARED, METADATA


def write_pairs(run: RunFolder, out: Path) -> int:
    """``out/metadata.jsonl``, which names the run's images where they lie, and beside it what they were
    optimised for. Returns how many there are.

    Raises ValueError for a run without images.
    """
    lines = []
    for key, sample in sorted(run.samples().items()):
        if key in run.header.planned and sample.image is not None:
            place = os.path.relpath(run.image_path(sample).resolve(), out.resolve())
            lines.append(json.dumps({"file_name": place, "text": sample.prompt}, ensure_ascii=False))
    if not lines:
        raise ValueError(f"{run.path} has no images; `tcbench generate` draws them")
    out.mkdir(parents=True, exist_ok=True)
    declared = {"trained_on": run.header.details.get("trained_on"), "run": run.header.generation_id}
    write_atomically(out / DECLARED, (json.dumps(declared) + "\n").encode())
    write_atomically(out / METADATA, ("\n".join(lines) + "\n").encode())
    return len(lines)
