"""Write a run's images and prompts as training data; for a best-of-N run, the data of RAFT."""

from __future__ import annotations

import json
import os
from pathlib import Path

from leaderboards.run_state import RunState
from tcbench.errors import MissingFiles
from tcbench.files import check_writable, write_atomically
from textcraftor.io.pairs import DECLARED, METADATA


def write_pairs(run: RunState, out: Path) -> int:
    """Write ``out/metadata.jsonl``, which refers to the run's images, and the rewards that selected them.

    Returns:
        The number of pairs.

    Raises:
        ConfigError: If nothing can be written into ``out``.
        MissingFiles: If the run has no images.
    """
    check_writable(out)
    lines = []
    for key, sample in sorted(run.samples.items()):
        if key in run.header.planned and sample.image is not None:
            # relative, so that run and pairs can be moved together
            path = os.path.relpath(run.image_path(sample).resolve(), out.resolve())
            lines.append(json.dumps({"file_name": path, "text": sample.prompt}, ensure_ascii=False))
    if not lines:
        raise MissingFiles(f"{run.path} has no images; generate them with `tcbench generate`")
    out.mkdir(parents=True, exist_ok=True)
    declared = {"trained_on": run.header.details.get("trained_on"), "run": run.header.generation_id}
    write_atomically(out / DECLARED, (json.dumps(declared) + "\n").encode())
    write_atomically(out / METADATA, ("\n".join(lines) + "\n").encode())
    return len(lines)
