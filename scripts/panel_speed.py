"""Speed and memory of scoring a folder of PNG files: one reward after another, or all in one panel.

    python scripts/panel_speed.py world [--images 64] [--repeats 5]   # the world's eight rewards, 64 px
    python scripts/panel_speed.py full [--images 4] [--repeats 3]     # four large rewards, random weights,
    512 px

One after another: each reward is loaded, decodes every batch of images, preprocesses and scores it, and is
freed before the next one is loaded. In a panel: all rewards are loaded, each batch is decoded once, and
rewards share towers, preprocessing and embeddings of prompts.

Each repeat runs in a separate process, and the two ways take turns, so that a machine whose speed changes
favours neither. Seconds are those of decoding and scoring; imports, loading weights and a first batch, which
warms up, are not timed. Numbers are medians with the range over the repeats. Peak memory is that of the
process, in MiB.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

_SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(_SCRIPTS.parent), str(_SCRIPTS)]

from measuring import (  # noqa: E402 - of this folder
    Timing,
    answer_job,
    benchmark_parser,
    peak_memory_mib,
    run_job,
    table_row,
)
from random_weights import records_without_hashes, write_random_weights  # noqa: E402

_FULL = ("aesthetic-v1", "aesthetic-v2", "clip", "pickscore")
_DEFAULTS = {"world": {"images": 64, "repeats": 5}, "full": {"images": 4, "repeats": 3}}
_PROMPTS = ("a large red circle on a white background", "a small blue square above a green star")

_HEAD = ("| scoring | seconds | images a second | peak MiB |", "|---|---|---|---|")


def _world_images(folder: Path, count: int) -> list[Path]:
    """Write rendered scenes, of the size that `micro` generates."""
    import numpy as np
    from PIL import Image

    from rewards.world.render import render
    from rewards.world.scenes import Scene

    rng = np.random.default_rng(0)
    paths = [folder / f"{i:05}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(render(Scene.random(rng), i)).save(path)
    return paths


def _photographs(folder: Path, count: int) -> list[Path]:
    """Write photographs as squares of 512 px, the size that Stable Diffusion 1.5 generates."""
    from rewards.verification.pictures import load_photos, photo_folder

    images = load_photos(photo_folder(folder, count), count)
    paths = [folder / f"{i:05}.png" for i in range(count)]
    for image, path in zip(images.values(), paths, strict=True):
        image.resize((512, 512)).save(path)
    return paths


def _score(job: dict[str, Any]) -> dict[str, Any]:
    """Score all images in one of the two ways, in this process; return seconds and peak memory."""
    import torch

    with torch.no_grad():
        seconds = (_one_panel if job["panel"] else _one_by_one)(job)
    return {"seconds": seconds, "peak": peak_memory_mib()}


def _one_by_one(job: dict[str, Any]) -> float:
    import rewards

    seconds = 0.0
    for record in _records(job):
        reward = rewards.load(record, weights=job["files"].get(record.name))
        seconds += _time_batches(job, reward.score)
        del reward  # before the next one is loaded, as in a run
    return seconds


def _one_panel(job: dict[str, Any]) -> float:
    from rewards.combine.panel import Panel

    return _time_batches(job, Panel(_records(job), weights=job["files"]).score)


def _time_batches(job: dict[str, Any], score: Any) -> float:
    """Decode and score batch by batch; the first batch is scored once more before, without being timed."""
    batches = [job["images"][i : i + job["batch"]] for i in range(0, len(job["images"]), job["batch"])]
    # Other prompts than those of the timed run, whose embeddings a panel would keep.
    score(_decode(batches[0]), ["warm up"] * len(batches[0]))
    started, done = time.perf_counter(), 0
    for batch in batches:
        prompts = [f"{_PROMPTS[i % len(_PROMPTS)]} {i}" for i in range(done, done + len(batch))]
        score(_decode(batch), prompts)
        done += len(batch)
    return time.perf_counter() - started


def _decode(paths: Sequence[str]) -> list[Any]:
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in paths]


def _records(job: dict[str, Any]) -> list[Any]:
    """Return the records of the job's rewards; random weights do not have the published hashes."""
    import rewards

    if job["files"]:
        return records_without_hashes(job["names"])
    return [rewards.info(name) for name in job["names"]]


def _rows(before: Timing, after: Timing, images: int) -> list[str]:
    """Return the rows of the table."""
    rows = []
    for name, timing in (("one reward after another", before), ("one panel", after)):
        low, high = min(timing.seconds), max(timing.seconds)
        pace = f"{images / median(timing.seconds):.2f}"
        rows.append(
            table_row(name, f"{timing.median:.2f} ({low:.2f}-{high:.2f})", pace, f"{timing.peak:.0f}")
        )
    return [*rows, table_row("ratio", before.ratio(after), "", f"{before.peak / after.peak:.2f}")]


def main() -> None:
    """Measure both ways in turn and print a table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("rewards", nargs="?", choices=_DEFAULTS, default="world")
    parser.add_argument("--images", type=int, help="number of images (world: 64, full: 4)")
    parser.add_argument("--batch", type=int, default=16, help="images per batch")
    parser.add_argument("--repeats", type=int, help="repeats of each way (world: 5, full: 3)")
    options = parser.parse_args()
    if options.worker:
        answer_job(options.worker, _score)
        return
    import torch

    from benchmarks.systems import WORLD_REWARDS

    full = options.rewards == "full"
    names = _FULL if full else WORLD_REWARDS
    count = options.images or _DEFAULTS[options.rewards]["images"]
    repeats = options.repeats or _DEFAULTS[options.rewards]["repeats"]
    results: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = (_photographs if full else _world_images)(folder, count)
        weights = write_random_weights(folder, names) if full else {}
        job = {
            "names": list(names),
            "files": {name: weight.files for name, weight in weights.items()},
            "images": paths,
            "batch": options.batch,
        }
        for repeat in range(repeats):
            for panel in (False, True):
                result = run_job(__file__, {**job, "panel": panel}, folder)
                results[panel].append(result)
                print(f"repeat {repeat + 1}, panel {panel}: {result['seconds']:.2f} s", file=sys.stderr)
    before, after = (
        Timing([result["seconds"] for result in results[panel]], max(r["peak"] for r in results[panel]))
        for panel in (False, True)
    )
    note = (
        f"{', '.join(names)}{' with random weights' if full else ''}; {count} images of "
        f"{512 if full else 64} px in batches of {options.batch}, {repeats} repeats, torch "
        f"{torch.__version__}, CPU, {torch.get_num_threads()} threads."
    )
    text = "\n".join([*_HEAD, *_rows(before, after, count), "", note, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
