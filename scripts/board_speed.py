"""How long a leaderboard of a million scores takes, and how much memory, on generated run folders.

    python scripts/board_speed.py [--systems 50] [--prompts 1000] [--seeds 2] [--rewards 10] [--folder F]

Each system has a small gain of its own, a prompt's difficulty is shared by all, and the prompts are of twelve
categories. The board is built and written in a process of its own, from files to files, as
`tcbench leaderboard` does it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CATEGORIES = 12


def write_runs(folder: Path, systems: int, prompts: int, seeds: int, rewards: int) -> None:
    """Finished run folders without images."""
    import numpy as np

    from leaderboards.records import Header, Planned, Sample, Score, ScoreSet, short_id
    from leaderboards.run_state import RunState

    sets = [
        ScoreSet(f"reward-{r:02}", short_id({"reward": r}), True, "trainable", f"family-{r}")
        for r in range(rewards)
    ]
    keys = list(product(range(prompts), range(seeds)))
    difficulty = np.random.default_rng(0).gamma(2.0, size=(rewards, prompts))
    for number in range(systems):
        generation = {"system": f"system-{number:02}"}
        header = Header(
            suite="generated",
            suite_sha256=short_id({"prompts": prompts}),
            system=generation["system"],
            generation_id=short_id(generation),
            generation=generation,
            planned=Planned(tuple(range(prompts)), prompts, seeds),
            details={"trained_on": []},
        )
        run = RunState.create(folder / generation["system"], header)
        run.append_samples(
            Sample(p, s, f"{p}", f"{p}", f"category {p % CATEGORIES}", 7, f"{p}-{s}.png", "0")
            for p, s in keys
        )
        generator = np.random.default_rng(number + 1)
        for place, reward in enumerate(sets):
            own = 0.002 * number + 0.3 * generator.normal(size=(prompts, seeds))
            values = difficulty[place][:, None] + own
            run.append_scores(
                reward, (Score(p, s, "ok", float(values[p, s]), image_sha256="0") for p, s in keys)
            )


def build(folder: Path, out: Path) -> None:
    """Build and write a board as `tcbench leaderboard` does, and print the time and memory it took."""
    from leaderboards.builder import build
    from leaderboards.files import write_board

    started = time.perf_counter()
    board = build(folder, "system-00")
    built = time.perf_counter()
    write_board(board, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"build": built - started, "write": time.perf_counter() - built, "peak_mib": peak}))


def main() -> None:
    """Write the runs, build the board, say what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("systems", 50), ("prompts", 1000), ("seeds", 2), ("rewards", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="keep the runs here, and use those that are")
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build(options.folder, options.folder.parent / "board")
        return
    with TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)) / "runs"
        if not folder.exists():
            write_runs(folder, options.systems, options.prompts, options.seeds, options.rewards)
        command = [sys.executable, __file__, "--build", "--folder", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    scores = options.systems * options.prompts * options.seeds * options.rewards
    found = json.loads(done.stdout)
    print(
        f"{scores:,} scores of {options.systems} systems: {found['build']:.1f} s to build, "
        f"{found['write']:.1f} s to write, {found['peak_mib']:,.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
