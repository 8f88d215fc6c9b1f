"""Compare systems on the same prompts and noise, and write a leaderboard.

    python examples/compare_encoders.py                                   # about ten minutes on two cores
    python examples/compare_encoders.py --models sd15 ckpt/sd15 --suite parti --limit 200

The first model is the baseline. Finished runs are not repeated, so adding a model later is cheap.
"""

import argparse
from pathlib import Path

import benchmarks
import leaderboards

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--models", nargs="+", default=["micro", "micro+style-words"])
parser.add_argument("--suite", default="world", help="prompt set: world, parti, hpsv2 ...")
parser.add_argument("--rewards", default=None, help="comma-separated names; by default the model's own")
parser.add_argument("--limit", type=int, default=100, help="number of prompts; below 100 no claim is made")
parser.add_argument("--out", type=Path, default=Path("comparison"))
options = parser.parse_args()

runs = []
for model in options.models:
    outcome = benchmarks.run(
        model,
        suite=options.suite,
        rewards=options.rewards.split(",") if options.rewards else None,
        limit=options.limit,
        out=options.out / "runs",
    )
    runs.append(outcome.path)
    print(f"{model}: {outcome.path}")

board = leaderboards.build(runs, baseline=options.models[0])
for file in leaderboards.write_board(board, options.out / "board"):
    print(file)
