"""What TextCraftor does on the embedded world: trains, draws, scores, and writes the page that says so.

    python scripts/textcraftor_world.py [--folder build/textcraftor] [--docs docs/textcraftor] [--jobs 2]

Three seeds of the default, the default without its CLIP constraint, and one reward alone are trained; each is
drawn on the 1,000 held-out prompts and, with four noises each, on 100 of them; one at five strengths.
Every step is a tcbench command of one thread, so the script goes on where it was stopped. About two hours on
two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SUITE = "world"
SEEDS = (0, 1, 2)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
STRIP = 8
"""Prompts of a sweep that is for its picture alone."""

DIVERSITY = {"limit": 100, "seeds": 4}
CONSTRAINT = "world-clip"
SHOWN = ("micro", "seed-0", "no-constraint", "aesthetic-only")

ORACLE_FLOOR = -0.015
BLIP_FLOOR = -0.1
"""Lower ends of the judges' intervals: of the oracle's share of claims, and in the baseline's deviations."""

DIVERSITY_FLOOR = 0.8
"""Of the baseline's."""


@dataclass(frozen=True)
class Variant:
    """One training run: its name, what it is called in the table, and its settings."""

    name: str
    title: str
    settings: tuple[str, ...] = ()


def variants() -> list[Variant]:
    """Everything that is trained."""
    from textcraftor.config import make_config

    rewards = make_config("micro").rewards
    free = ",".join(term for term in rewards.split(",") if not term.startswith("world-clip"))
    return [
        *(
            Variant(f"seed-{seed}", f"default, seed {seed}", (f"seed={seed}", "method=TextCraftor"))
            for seed in SEEDS
        ),
        Variant("no-constraint", "without the CLIP constraint", (f"rewards={free}",)),
        Variant("aesthetic-only", "world-aesthetic alone", ("rewards=world-aesthetic=1",)),
    ]


class Work:
    """Runs commands that go on where they were stopped, some at a time."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder, self.jobs = folder, jobs
        folder.mkdir(parents=True, exist_ok=True)

    def all(self, commands: Sequence[Sequence[str]]) -> None:
        """Run them; the first that fails ends the script with its last words."""
        with ThreadPoolExecutor(self.jobs) as pool:
            for command, done in zip(commands, pool.map(self._one, commands), strict=True):
                if done.returncode:
                    sys.exit(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")

    def _one(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        print(shlex.join(["tcbench", *command]), file=sys.stderr, flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        whole = [sys.executable, "-m", "tcbench.launch", *command]
        return subprocess.run(whole, capture_output=True, text=True, env=environment, check=False)


def train_commands(folder: Path) -> list[list[str]]:
    """One a variant."""
    cache = str(folder / "prefixes")
    return [
        ["train", "--model", "micro", "--out", str(folder / variant.name), "--set", f"prefix_cache={cache}",
         *(word for setting in variant.settings for word in ("--set", setting))]
        for variant in variants()
    ]  # fmt: skip


def run_commands(folder: Path) -> list[list[str]]:
    """All on the held-out prompts, and with several noises on some of them."""
    models = ["micro", *(str(folder / variant.name) for variant in variants())]
    whole = [["run", "--model", model, "--suite", SUITE, "--out", str(folder / "runs")] for model in models]
    many = [
        ["run", "--model", model, "--suite", SUITE, "--out", str(folder / "diversity"),
         "--limit", str(DIVERSITY["limit"]), "--seeds", str(DIVERSITY["seeds"]), "--rewards", "world-siglip"]
        for model in models
    ]  # fmt: skip
    return whole + many


def sweep_command(folder: Path) -> list[str]:
    """The default's first seed at several strengths."""
    strengths = ",".join(f"{strength:g}" for strength in STRENGTHS)
    return ["sweep", "--model", str(folder / "seed-0"), "--out", str(folder / "sweep"), "--suite", SUITE,
            "--strengths", strengths]  # fmt: skip


def strip_command(folder: Path) -> list[str]:
    """A few pictures at those strengths of the encoder that changes them most."""
    strengths = ",".join(f"{strength:g}" for strength in STRENGTHS)
    return ["sweep", "--model", str(folder / "no-constraint"), "--out", str(folder / "strip"),
            "--suite", SUITE, "--strengths", strengths, "--limit", str(STRIP),
            "--rewards", "world-siglip"]  # fmt: skip


def board_commands(folder: Path, docs: Path) -> list[list[str]]:
    """All against the pipeline as it is; and a few of them, for a picture."""
    runs = folder / "runs"
    few = [str(find_run(runs, name).path) for name in SHOWN]
    return [
        ["leaderboard", str(runs), "--baseline", "micro", "--out", str(docs)],
        ["leaderboard", *few, "--baseline", "micro", "--out", str(folder / "few")],
    ]


def find_run(folder: Path, system: str) -> Any:
    """The run folder of the system of that name."""
    from leaderboards.records import find_runs

    found = [run for run in find_runs([folder]) if run.header.system == system]
    if len(found) != 1:
        sys.exit(f"{folder} has {len(found)} runs of {system}; expected one: move others away")
    return found[0]


def diversity(folder: Path, system: str) -> float:
    """1 - mean pairwise cosine of world-siglip's embeddings over one prompt's images, mean over prompts."""
    from statistics import mean

    from benchmarks.sweep import prompt_scores

    return mean(prompt_scores(find_run(folder / "diversity", system))["diversity"].values())


def report(folder: Path, docs: Path) -> Iterator[str]:
    """The page, line by line."""
    import statistics

    from benchmarks.sweep import paired_change, prompt_scores
    from textcraftor.config import make_config
    from textcraftor.io.checkpoint import LOG, TrainFolder, read_checkpoint

    base = prompt_scores(find_run(folder / "runs", "micro"))
    spread = statistics.stdev(base["world-blip"].values())
    own = diversity(folder, "micro")
    names = list(base)
    yield "# TextCraftor on the embedded world"
    yield ""
    yield "Made by `scripts/textcraftor_world.py`; not typed."
    yield ""
    count = len(base[names[0]])
    yield f"The default for `micro`: `{make_config('micro').rewards}`, standardised on training prompts."
    yield f"Changes are against the pipeline as it is, paired by prompt and noise, on the {count:,} held-out"
    yield "prompts, mean with the 95 % interval of a leaderboard. Checkpoints are chosen by"
    yield "world-siglip on validation prompts; the judges (world-oracle, world-blip, world-rule) took part in"
    yield "nothing."
    yield ""
    yield "| encoder | updates | " + " | ".join(names) + " | diversity |"
    yield "|---" * (len(names) + 3) + "|"
    means = [f"{statistics.mean(base[name].values()):.4g}" for name in names]
    yield "| as it is (mean) | | " + " | ".join(means) + f" | {own:.4f} |"
    verdicts, costs = [], []
    for variant in variants():
        found = prompt_scores(find_run(folder / "runs", variant.name))
        changes = {name: paired_change(found[name], base[name]) for name in names}
        best = read_checkpoint(folder / variant.name / "best")
        spread_now = diversity(folder, variant.name)
        cells = [f"{c.value:+.3f} ({c.low:+.3f} to {c.high:+.3f})" for c in changes.values()]
        yield f"| {variant.title} | {best.update} | " + " | ".join(cells) + f" | {spread_now / own:.0%} |"
        trained = [term.partition("=")[0] for term in _rewards(variant).split(",")]
        verdicts.append((variant, changes, trained, spread_now / own))
        last = TrainFolder(folder / variant.name).rows(LOG)[-1]
        costs.append(f"| {variant.title} | {last['samples']:,} | {last['unet']:,} | {last['seconds']:.0f} |")
    yield ""
    yield from verdict_lines(verdicts, spread)
    yield "![The same prompts and noise: as it is, tuned, without the constraint, one reward](tuned.png)"
    yield ""
    yield "| encoder | samples seen | UNet forwards (equivalents) | seconds of training, one core |"
    yield "|---|---|---|---|"
    yield from costs
    yield ""
    yield "A run that found its prefixes in the cache did a third of the UNet's work."
    yield ""
    yield "## Interpolation"
    yield ""
    yield from interpolation(folder)
    yield ""
    yield "![Curves over the strength](curves.png)"
    yield ""
    yield "![Strength 0, 0.25, 0.5, 0.75, 1 from left to right](grid.png)"
    yield ""
    yield "The same of the encoder that was tuned without the constraint, which changes more:"
    yield ""
    yield "![Strength 0, 0.25, 0.5, 0.75, 1 from left to right](strip.png)"
    yield ""
    yield "The whole leaderboard: [leaderboard.md](leaderboard.md)."


def verdict_lines(verdicts: Sequence[tuple[Variant, Any, list[str], float]], spread: float) -> Iterator[str]:
    """What should hold of each variant, by its changes, its trained rewards, its share of diversity."""
    yield "| what should hold | " + " | ".join(v.title for v, *_ in verdicts) + " |"
    yield "|---" * (len(verdicts) + 1) + "|"
    yield _line(
        "every trained reward rises, its interval above zero",
        [all(c[n].low > 0 for n in t) for _, c, t, _ in verdicts],
    )
    yield _line(
        f"the same, {CONSTRAINT}, the constraint, apart",
        [all(c[n].low > 0 for n in t if n != CONSTRAINT) for _, c, t, _ in verdicts],
    )
    yield _line(
        f"{CONSTRAINT} rises, its interval above zero", [c[CONSTRAINT].low > 0 for _, c, _, _ in verdicts]
    )
    yield _line(
        f"{CONSTRAINT} does not fall (interval not below zero)",
        [c[CONSTRAINT].high >= 0 for _, c, _, _ in verdicts],
    )
    yield _line(
        f"world-oracle's lower end above {ORACLE_FLOOR}",
        [c["world-oracle"].low > ORACLE_FLOOR for _, c, _, _ in verdicts],
    )
    yield _line(
        f"world-blip's lower end above {BLIP_FLOOR} deviations",
        [c["world-blip"].low > BLIP_FLOOR * spread for _, c, _, _ in verdicts],
    )
    yield _line(f"diversity at least {DIVERSITY_FLOOR:.0%}", [d >= DIVERSITY_FLOOR for *_, d in verdicts])
    yield ""


def interpolation(folder: Path) -> Iterator[str]:
    """The mix of trained rewards at each strength, against the one before."""
    from benchmarks.sweep import paired_change, prompt_scores
    from rewards.combine.calibration import WORLD_CALIBRATION, Calibration
    from rewards.combine.terms import parse_mix
    from textcraftor.config import make_config

    parts = parse_mix(make_config("micro").rewards)
    calibration, last = Calibration.read(WORLD_CALIBRATION), make_config("micro").drawn_tuned_steps
    points = []
    for strength in STRENGTHS:
        found = prompt_scores(find_run(folder / "sweep" / "runs", f"seed-0-{strength:g}-last-{last}"))
        totals: dict[int, float] = {}
        for name, part in parts.items():
            deviation = calibration.rewards[name].std
            for prompt, value in found[name].items():
                totals[prompt] = totals.get(prompt, 0.0) + part.weight * value / deviation
        points.append(totals)
    yield f"The embedding is (1 - strength) x original + strength x tuned, in the last {last} steps. The mix"
    yield "of the trained rewards, each in its deviations:"
    yield ""
    yield "| strength | change against the one before | change against 0 | rises |"
    yield "|---|---|---|---|"
    for place, strength in enumerate(STRENGTHS[1:], 1):
        step, whole = paired_change(points[place], points[place - 1]), paired_change(points[place], points[0])
        rises = "yes" if step.low > 0 else "no"
        yield f"| {strength:g} | {_interval(step)} | {_interval(whole)} | {rises} |"


def _interval(found: Any) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _line(what: str, holds: Sequence[bool]) -> str:
    return f"| {what} | " + " | ".join("yes" if one else "**no**" for one in holds) + " |"


def _rewards(variant: Variant) -> str:
    from textcraftor.config import make_config

    return make_config("micro", settings=variant.settings).rewards


def main() -> None:
    """Do all that is not done yet, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("build/textcraftor"))
    parser.add_argument("--docs", type=Path, default=Path("docs/textcraftor"))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    work = Work(options.folder, options.jobs)
    work.all(train_commands(options.folder))
    work.all(  # the longest first
        [sweep_command(options.folder), *run_commands(options.folder), strip_command(options.folder)]
    )
    work.all([["diversity", str(options.folder / "diversity")]])
    options.docs.mkdir(parents=True, exist_ok=True)
    work.all(board_commands(options.folder, options.docs))
    page = "\n".join(report(options.folder, options.docs)) + "\n"
    (options.docs / "report.md").write_text(page, encoding="utf-8")
    pictures = {"curves": "sweep/curves", "grid": "sweep/grid", "strip": "strip/grid", "tuned": "few/samples"}
    for name, made in pictures.items():
        (options.docs / f"{name}.png").write_bytes((options.folder / f"{made}.png").read_bytes())
    print(options.docs / "report.md")
    print(json.dumps({"folder": str(options.folder)}))


if __name__ == "__main__":
    main()
