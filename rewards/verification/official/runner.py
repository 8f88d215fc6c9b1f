"""Runs inside the official packages' environment: python runner.py JOB.json ANSWER.json.

A job has "reward" ("hpsv2" or "imagereward"), "checkpoint", "images" (paths), "prompts", and of what the
packages would download: for ImageReward "med_config" and "vocabulary". "antialias" is torchvision's default
when the published numbers were made (false) or today's (true). "architecture" names smaller sizes than the
published ones: for HPSv2 a file of open_clip's model configuration, for ImageReward a vision transformer's
"width", "depth" and "heads". With "pairs" each picture has its own prompt, else every picture is scored for
every prompt. "repeats" are timed after the first time.

The answer has "scores" (pictures x prompts, or pictures x 1), "seconds" of each repeat as a user calls it and
"hoisted" with the checkpoint loaded before, "peak" MiB of the process, and "versions".
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

Scores = list[list[float]]
Score = Callable[[], Scores]

PACKAGES = ("hpsv2", "image-reward", "torch", "torchvision", "transformers", "timm", "pillow")


def hpsv2(job: dict[str, Any]) -> tuple[Score, Score]:
    """Scoring as `hpsv2.score` does on each call, and the same with the checkpoint loaded before."""
    from hpsv2 import img_score
    from hpsv2.src.open_clip import factory, transform

    name = "ViT-H-14"
    if job.get("architecture"):
        factory.add_model_config(Path(job["architecture"]))
        name = Path(job["architecture"]).stem
        img_score.get_tokenizer = lambda _name: factory.get_tokenizer(name)
    create = img_score.create_model_and_transforms
    # without the weights it starts from, which the checkpoint replaces and which would be downloaded
    img_score.create_model_and_transforms = lambda _name, _pretrained, **rest: create(name, None, **rest)
    transform.F.resize = partial(transform.F.resize, antialias=bool(job["antialias"]))
    one = partial(img_score.score, cp=job["checkpoint"])

    def score() -> Scores:
        if job.get("pairs"):
            pairs = zip(job["images"], job["prompts"], strict=True)
            return [[float(one([image], text)[0])] for image, text in pairs]
        columns = [one(job["images"], text) for text in job["prompts"]]
        return [[float(column[row]) for column in columns] for row in range(len(job["images"]))]

    def hoisted() -> Scores:
        model, load = img_score.model_dict["model"], img_score.torch.load
        model.load_state_dict = lambda state: None
        img_score.torch.load = lambda *_, **__: {"state_dict": {}}
        try:
            return score()
        finally:
            del model.load_state_dict
            img_score.torch.load = load

    return score, hoisted


def imagereward(job: dict[str, Any]) -> tuple[Score, Score]:
    """Scoring as `ImageReward.load(...).score` does; loading is never part of it."""
    import ImageReward
    import torch
    from ImageReward.models.BLIP import blip, blip_pretrain

    tokenizer = blip.BertTokenizer
    blip.BertTokenizer = type("Local", (), {"from_pretrained": lambda _name: tokenizer(job["vocabulary"])})
    if job.get("architecture"):
        sizes = job["architecture"]

        def create_vit(_vit: str, image_size: int, *_: Any) -> tuple[Any, int]:
            eyes = blip.VisionTransformer(
                img_size=image_size,
                patch_size=16,
                embed_dim=sizes["width"],
                depth=sizes["depth"],
                num_heads=sizes["heads"],
            )
            return eyes, sizes["width"]

        blip_pretrain.create_vit = create_vit
    model = ImageReward.load(job["checkpoint"], device="cpu", med_config=job["med_config"])

    @torch.no_grad()
    def score() -> Scores:
        if job.get("pairs"):
            pairs = zip(job["images"], job["prompts"], strict=True)
            return [[model.score(text, image)] for image, text in pairs]
        return [[model.score(text, image) for text in job["prompts"]] for image in job["images"]]

    return score, score


def timed(score: Score, repeats: int) -> list[float]:
    """Seconds of each repeat."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        score()
        seconds.append(time.perf_counter() - started)
    return seconds


def peak_mib() -> float:
    """The most memory that this process had; getrusage would count that of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return float("nan")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[0]) / 1024


def main() -> None:
    """Answer the job."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    score, hoisted = {"hpsv2": hpsv2, "imagereward": imagereward}[job["reward"]](job)
    scores, repeats = score(), job.get("repeats", 0)
    answer = {
        "scores": scores,
        "seconds": timed(score, repeats),
        "hoisted": timed(hoisted, repeats),
        "peak": peak_mib(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
