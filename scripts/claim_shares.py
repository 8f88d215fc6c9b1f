"""Which claims of the prompts are true: the share of each kind, for runs on the embedded world.

    python scripts/claim_shares.py runs/world-micro-... runs/world-tuned-...

`world-oracle` is the share of all claims, averaged over images. This is the same analysis by kind of claim:
number of objects, shape, colour, size, position, relation, background.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from leaderboards.run_state import RunState
from rewards.world.prompts import WorldPrompt
from tcbench.images import open_image
from textcraftor.micro.training.measure import PromptImages


def _shares(run: RunState) -> dict[str, float]:
    """Return the share of true claims by their kind."""
    samples = [sample for sample in run.samples.values() if sample.image is not None]
    prompts = [WorldPrompt(sample.prompt, sample.category, run.header.suite) for sample in samples]
    images = [np.asarray(open_image(run.image_path(sample))) for sample in samples]
    return PromptImages(prompts, np.stack(images)).true_claims()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with their images")
    for folder in parser.parse_args().runs:
        shares = _shares(RunState(folder))
        print(f"{folder.name}: " + ", ".join(f"{kind} {share:.3f}" for kind, share in shares.items()))
