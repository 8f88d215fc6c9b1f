"""Score images with an official package, inside its environment: python runner.py JOB.json ANSWER.json.

The job:
    reward: "hpsv2" or "imagereward".
    checkpoint: Path of the weights.
    images: Paths.
    prompts: Texts. Every image is scored for every prompt; with "pairs" true, each image for its own.
    antialias: For HPSv2, torchvision's default when the published numbers were made (false) or
        today's (true).
    med_config, vocabulary: For ImageReward, files that the package would download.
    architecture: Smaller sizes than the published ones: for HPSv2 a file of open_clip's model configuration,
        for ImageReward a vision transformer's "width", "depth" and "heads".
    repeats: How often to time it after the first call.

The answer:
    scores: (images, prompts), or (images, 1) with "pairs".
    seconds: Of each repeat, with the checkpoint loaded before.
    peak: Peak memory of the process, MiB.
    versions: Of the packages.
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

_Scores = list[list[float]]
_Score = Callable[[], _Scores]

_PACKAGES = ("hpsv2", "image-reward", "torch", "torchvision", "transformers", "timm", "pillow")


def _hpsv2(job: dict[str, Any]) -> tuple[_Score, _Score]:
    """Return scoring as `hpsv2.score` does it, and the same with the checkpoint loaded, to be timed."""
    from hpsv2 import img_score
    from hpsv2.src.open_clip import factory, transform

    name = "ViT-H-14"
    if job.get("architecture"):
        factory.add_model_config(Path(job["architecture"]))
        name = Path(job["architecture"]).stem
        img_score.get_tokenizer = lambda _name: factory.get_tokenizer(name)
    create = img_score.create_model_and_transforms
    # The package starts from LAION's weights, which it would download and then replace by the checkpoint.
    img_score.create_model_and_transforms = lambda _name, _pretrained, **rest: create(name, None, **rest)
    transform.F.resize = partial(transform.F.resize, antialias=bool(job["antialias"]))
    one = partial(img_score.score, cp=job["checkpoint"])

    def score() -> _Scores:
        if job.get("pairs"):
            pairs = zip(job["images"], job["prompts"], strict=True)
            return [[float(one([image], text)[0])] for image, text in pairs]
        columns = [one(job["images"], text) for text in job["prompts"]]
        return [[float(column[row]) for column in columns] for row in range(len(job["images"]))]

    def hoisted() -> _Scores:
        # The package reads the checkpoint on every call. To time the rest, reading and loading do nothing.
        model, load = img_score.model_dict["model"], img_score.torch.load
        model.load_state_dict = lambda state: None
        img_score.torch.load = lambda *_, **__: {"state_dict": {}}
        try:
            return score()
        finally:
            del model.load_state_dict
            img_score.torch.load = load

    return score, hoisted


def _imagereward(job: dict[str, Any]) -> tuple[_Score, _Score]:
    """Return scoring as `ImageReward.load(...).score` does it, twice: loading is never part of a call."""
    import ImageReward
    import torch
    from ImageReward.models.BLIP import blip, blip_pretrain

    tokenizer = blip.BertTokenizer
    blip.BertTokenizer = type("Local", (), {"from_pretrained": lambda _name: tokenizer(job["vocabulary"])})
    if job.get("architecture"):
        sizes = job["architecture"]

        def create_vit(_vit: str, image_size: int, *_: Any) -> tuple[Any, int]:
            tower = blip.VisionTransformer(
                img_size=image_size,
                patch_size=16,
                embed_dim=sizes["width"],
                depth=sizes["depth"],
                num_heads=sizes["heads"],
            )
            return tower, sizes["width"]

        blip_pretrain.create_vit = create_vit
    model = ImageReward.load(job["checkpoint"], device="cpu", med_config=job["med_config"])

    @torch.no_grad()
    def score() -> _Scores:
        if job.get("pairs"):
            pairs = zip(job["images"], job["prompts"], strict=True)
            return [[model.score(text, image)] for image, text in pairs]
        return [[model.score(text, image) for text in job["prompts"]] for image in job["images"]]

    return score, score


def _seconds(score: _Score, repeats: int) -> list[float]:
    """Return the seconds of each repeat."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        score()
        seconds.append(time.perf_counter() - started)
    return seconds


def _peak_mib() -> float:
    """Return the peak memory of this process; getrusage would include that of its parent before the fork."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return float("nan")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[0]) / 1024


def main() -> None:
    """Read the job, score, and write the answer."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    score, timed = {"hpsv2": _hpsv2, "imagereward": _imagereward}[job["reward"]](job)
    scores, repeats = score(), job.get("repeats", 0)
    answer = {
        "scores": scores,
        "seconds": _seconds(timed, repeats),
        "peak": _peak_mib(),
        "versions": {name: version(name) for name in _PACKAGES},
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
