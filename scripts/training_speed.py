"""How fast and how large TextCraftor's loop is beside a plain one, on the embedded pipeline.

    python scripts/training_speed.py [--updates 6] [--batch 8] [--repeats 3] [--out docs/performance.md]

The plain loop does what the official code does: UNet, decoder and rewards keep their gradients switched on, a
step's graph is made again for its gradient, every prefix is drawn anew, each reward is run by itself. Every
side runs in a process of its own; its first update is not timed. Ratios are of medians, beside them the range
that the repeats allow. Peak memory is the process's with its libraries, MiB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

REWARDS = "world-aesthetic=1,world-pick=1,world-hps=1,world-clip=1"
STEPS, LAST = 25, 5

HEAD = ("| ratio | should be | is (range) | samples a second | peak MiB |", "|---|---|---|---|---|")
INTRODUCTION = """# How fast the training loop is

Made by `scripts/training_speed.py --out docs/performance.md`; not typed. The embedded pipeline, {steps}
steps, the last {last} tuned, four rewards. Samples a second and memory are those of the first side and of the
other.
"""


@dataclass(frozen=True)
class Timing:
    """Seconds a sample in each repeat, and the peak memory, MiB."""

    seconds: Sequence[float]
    peak: float

    @property
    def pace(self) -> float:
        """Samples a second."""
        return 1 / median(self.seconds)


def row(what: str, bound: str, fast: Timing, slow: Timing) -> str:
    """The line of a ratio of paces, ``fast`` over ``slow``."""
    low = min(slow.seconds) / max(fast.seconds)
    high = max(slow.seconds) / min(fast.seconds)
    paces = f"{fast.pace:.2f} / {slow.pace:.2f}"
    cells = [what, bound, f"{fast.pace / slow.pace:.2f} ({low:.2f}-{high:.2f})", paces]
    return "| " + " | ".join([*cells, f"{fast.peak:.0f} / {slow.peak:.0f}"]) + " |"


def peak_row(what: str, bound: str, over: Timing, under: Timing) -> str:
    """The line of a ratio of peak memories."""
    cells = [what, bound, f"{over.peak / under.peak:.2f}", f"{over.pace:.2f} / {under.pace:.2f}"]
    return "| " + " | ".join([*cells, f"{over.peak:.0f} / {under.peak:.0f}"]) + " |"


class Bench:
    """Runs jobs, each in a process of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.updates, self.batch = folder, options.updates, options.batch
        self.repeats = options.repeats
        self.jobs = 0

    def run(self, kind: str, **settings: Any) -> Timing:
        """Repeat a job; the seconds a sample of each."""
        found = [self._run(kind, settings) for _ in range(self.repeats)]
        return Timing([one["seconds"] for one in found], median(one["peak"] for one in found))

    def epochs(self) -> tuple[Timing, Timing]:
        """First and second epoch of a run with a prefix cache."""
        found = []
        for number in range(self.repeats):
            cache = str(self.folder / f"epochs{number}")
            found.append(self._run("epochs", {"prefix_cache": cache, "noises": 1}))
        peak = median(one["peak"] for one in found)
        return Timing([one["first"] for one in found], peak), Timing([one["second"] for one in found], peak)

    def _run(self, kind: str, settings: dict[str, Any]) -> dict[str, float]:
        self.jobs += 1
        job = {"kind": kind, "updates": self.updates, "batch": self.batch, "settings": settings}
        job["out"] = str(self.folder / f"run{self.jobs}")
        ask, answer = self.folder / "job.json", self.folder / "answer.json"
        ask.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-W", "ignore", __file__, "--worker", str(ask), str(answer)]
        subprocess.run(command, check=True)
        found: dict[str, float] = json.loads(answer.read_text(encoding="utf-8"))
        return found


def ours(job: dict[str, Any]) -> dict[str, float]:
    """Our loop; seconds a sample after the first update, or of each of two epochs."""
    from rewards.world.prompts import world_prompts
    from textcraftor.config import TrainConfig
    from textcraftor.io.checkpoint import LOG, TrainFolder
    from textcraftor.sources import of_texts
    from textcraftor.train import train

    epochs = job["kind"] == "epochs"
    count = job["updates"] * job["batch"]
    source = of_texts(
        "bench", [prompt.text for prompt in world_prompts("train")[: count if epochs else 2000]]
    )
    values = {"tuned_steps": LAST} | job["settings"]
    config = TrainConfig(
        "micro",
        rewards=REWARDS,
        calibration="world",
        batch=job["batch"],
        updates=2 * job["updates"] if epochs else job["updates"] + 1,
        validate_every=0,
        save_every=10_000,
        lr=1e-4,
        drawn_tuned_steps=STEPS,
        **values,
    )
    train(config, job["out"], device="cpu", prompts=source)
    seconds = [line["seconds"] for line in TrainFolder(Path(job["out"])).rows(LOG)]
    peak = TrainFolder(Path(job["out"])).rows(LOG)[-1]["peak_mib"]
    if epochs:  # the first update, which loads and warms, is left out of its epoch
        middle = job["updates"] - 1
        first = (seconds[middle] - seconds[0]) / (middle * job["batch"])
        second = (seconds[-1] - seconds[middle]) / (job["updates"] * job["batch"])
        return {"first": first, "second": second, "peak": peak}
    return {"seconds": (seconds[-1] - seconds[0]) / (job["updates"] * job["batch"]), "peak": peak}


def plain(job: dict[str, Any]) -> dict[str, float]:
    """The loop as one would write it down from the paper."""
    import torch
    from torch.utils.checkpoint import checkpoint

    import rewards
    from rewards.combine.terms import parse_mix
    from rewards.world.prompts import world_prompts
    from textcraftor.diffusion.pipeline import MICRO, load
    from textcraftor.diffusion.prompts import initial_latents
    from textcraftor.train import peak_mib

    pipe = load(MICRO, device="cpu", dtype="float32", sampler="ddim")
    encoder = load(MICRO, device="cpu", dtype="float32", sampler="ddim").text_encoder
    scorers = {name: rewards.load(name) for name in parse_mix(REWARDS)}
    for module in (pipe.unet, pipe.vae, *scorers.values()):
        module.requires_grad_(True)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-4)
    texts = [prompt.text for prompt in world_prompts("train")]

    def embed(model: Any, prompts: list[str]) -> Any:
        tokens = pipe.tokenizer(
            [""] * len(prompts) + prompts,
            padding="max_length",
            max_length=pipe.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return model(tokens.input_ids)[0]

    def step(z: Any, t: Any, hidden: Any) -> Any:
        null, text = pipe.unet(torch.cat([z, z]), t, encoder_hidden_states=hidden).sample.chunk(2)
        return pipe.scheduler.step(null + 3.0 * (text - null), t, z).prev_sample

    started = 0.0
    for update in range(job["updates"] + 1):
        if update == 1:
            started = time.perf_counter()
        prompts = [texts[(update * job["batch"] + row) % len(texts)] for row in range(job["batch"])]
        pipe.scheduler.set_timesteps(STEPS)
        z = initial_latents(list(range(update * 100, update * 100 + job["batch"])), (8, 8, 8))
        with torch.no_grad():
            hidden = embed(pipe.text_encoder, prompts)
            for t in pipe.scheduler.timesteps[:-LAST]:
                z = step(z, t, hidden)
        hidden = embed(encoder, prompts)
        for t in pipe.scheduler.timesteps[-LAST:]:
            z = checkpoint(step, z, t, hidden, use_reentrant=False)
        images = (pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        loss = -sum(scorer.score(images, prompts).mean() for scorer in scorers.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    seconds = (time.perf_counter() - started) / (job["updates"] * job["batch"])
    return {"seconds": seconds, "peak": peak_mib("cpu")}


def main() -> None:
    """Run all comparisons and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker[0].read_text(encoding="utf-8"))
        found = (plain if job["kind"] == "plain" else ours)(job)
        options.worker[1].write_text(json.dumps(found), encoding="utf-8")
        return
    if options.updates < 2:
        parser.error("--updates needs at least 2: the first of an epoch, which loads and warms, is not timed")
    import torch

    rows: list[str] = []
    with TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options)
        reference = bench.run("plain")
        cold = bench.run("ours")
        rows.append(row("ours, nothing cached / the plain loop", ">= 1.3", cold, reference))
        warm_cache = {"prefix_cache": str(Path(scratch) / "warm"), "noises": 1}
        bench.run("ours", **warm_cache)
        warm = bench.run("ours", **warm_cache)
        rows.append(row("ours, prefixes cached / the plain loop", ">= 2.5", warm, reference))
        first, second = bench.epochs()
        rows.append(row("second epoch / first, with a prefix cache", ">= 1.6", second, first))
        short = bench.run("ours", estimator="conditioning", tuned_steps=1)
        long = bench.run("ours", estimator="conditioning", tuned_steps=STEPS)
        rows.append(peak_row("peak of conditioning-only, K = 25 / K = 1", "<= 1.2", long, short))
    note = (
        f"Batch {options.batch}, {options.updates} updates, {options.repeats} repeats, torch "
        f"{torch.__version__}, CPU, {torch.get_num_threads()} threads."
    )
    text = "\n".join([INTRODUCTION.format(steps=STEPS, last=LAST), *HEAD, *rows, "", note, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
