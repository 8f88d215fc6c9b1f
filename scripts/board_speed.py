"""Time and memory of building a leaderboard of a million scores, from generated run folders.

    python scripts/board_speed.py [--systems 50] [--prompts 1000] [--seeds 2] [--rewards 10] [--folder F]

Systems differ by small gains, each prompt's difficulty is shared by all of them, and the prompts have twelve
categories. The board is built and written in a separate process, from files to files, as in
`tcbench leaderboard`.
"""

from __future__ import annotations

import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(_SCRIPTS.parent), str(_SCRIPTS)]

from measuring import answer_job, benchmark_parser, peak_memory_mib, run_job  # noqa: E402 - of this folder

_CATEGORIES = 12


def _write_runs(folder: Path, systems: int, prompts: int, seeds: int, rewards: int) -> None:
    """Write finished run folders without images."""
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
            Sample(p, s, f"{p}", f"{p}", f"category {p % _CATEGORIES}", 7, f"{p}-{s}.png", "0")
            for p, s in keys
        )
        generator = np.random.default_rng(number + 1)
        for reward, shared in zip(sets, difficulty, strict=True):
            gain = 0.002 * number + 0.3 * generator.normal(size=(prompts, seeds))
            values = shared[:, None] + gain
            run.append_scores(
                reward, (Score(p, s, "ok", float(values[p, s]), image_sha256="0") for p, s in keys)
            )


def _build(job: dict[str, Any]) -> dict[str, float]:
    """Build and write the board in this process; return seconds and peak memory."""
    from leaderboards.builder import build
    from leaderboards.files import write_board

    started = time.perf_counter()
    board = build(Path(job["runs"]), "system-00")
    built = time.perf_counter()
    write_board(board, Path(job["out"]))
    return {"build": built - started, "write": time.perf_counter() - built, "peak": peak_memory_mib()}


def main() -> None:
    """Write the runs, build the board, and print time and memory."""
    parser = benchmark_parser(__doc__)
    for name, default in (("systems", 50), ("prompts", 1000), ("seeds", 2), ("rewards", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="keep the runs in this folder and reuse them")
    options = parser.parse_args()
    if options.worker:
        answer_job(options.worker, _build)
        return
    with TemporaryDirectory() as scratch:
        runs = (options.folder or Path(scratch)) / "runs"
        if not runs.exists():
            _write_runs(runs, options.systems, options.prompts, options.seeds, options.rewards)
        result = run_job(__file__, {"runs": runs, "out": Path(scratch) / "board"}, Path(scratch))
    scores = options.systems * options.prompts * options.seeds * options.rewards
    text = (
        f"{scores:,} scores of {options.systems} systems: {result['build']:.1f} s to build, "
        f"{result['write']:.1f} s to write, {result['peak']:,.0f} MiB peak"
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
