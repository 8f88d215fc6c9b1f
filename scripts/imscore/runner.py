"""Score images with imscore, inside its environment: python runner.py JOB.json ANSWER.json.

The job (see scripts/reward_speed.py):
    reward: "aesthetic-v2", "pickscore", "hpsv2-antialias" or "imagereward".
    files: What the package's loader would download.
    images: A .safetensors file with the tensor "images" (B, 3, H, W) in [0, 1].
    prompts: One per image.
    repeats: How often to time it after the first call.
    device: "cpu" or "cuda".

The answer has "scores", "seconds" of each repeat, "peak" memory in MiB, and "versions".
"""

from __future__ import annotations

import json
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def _aesthetic(files: dict[str, str]) -> Any:
    from imscore.aesthetic import model

    folder = files["model"]
    load = model.CLIPVisionModelWithProjection.from_pretrained
    model.CLIPVisionModelWithProjection.from_pretrained = lambda _name: load(folder, dtype="float32")
    scorer = model.LAIONAestheticScorer()
    scorer.mlp.load_state_dict(torch.load(files["head"], weights_only=True))
    return scorer


def _pickscore(files: dict[str, str]) -> Any:
    from imscore.pickscore import model
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(files["tokenizer"])
    model.AutoProcessor = type(
        "Local", (), {"from_pretrained": lambda _name: lambda text, **rest: tokenizer(text, **rest)}
    )
    load = model.CLIPModel.from_pretrained
    model.CLIPModel.from_pretrained = lambda folder: load(folder, dtype="float32")
    return model.PickScorer(files["model"])


def _hpsv2(files: dict[str, str]) -> Any:
    from imscore.hps import model

    create = model.create_model_and_transforms
    model.create_model_and_transforms = lambda name, _pretrained, **rest: create(name, None, **rest)
    scorer = model.HPSv2()
    scorer.model.load_state_dict(torch.load(files["checkpoint"], weights_only=True)["state_dict"])
    return scorer


def _imagereward(files: dict[str, str]) -> Any:
    from imscore.imreward import model

    tokenizer = model.BertTokenizer(files["vocabulary"])
    model.BertTokenizer = type("Local", (), {"from_pretrained": lambda _name: tokenizer})
    scorer = model.ImageReward()
    state = torch.load(files["checkpoint"], weights_only=True)
    scorer.load_state_dict({key: value for key, value in state.items() if "_proj." not in key}, strict=False)
    return scorer


def _peak_mib() -> float:
    """Return the peak memory of this process; getrusage would include that of its parent before the fork."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return float("nan")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[0]) / 1024


def main() -> None:
    """Read the job, score, and write the answer."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    loaders = {
        "aesthetic-v2": _aesthetic,
        "pickscore": _pickscore,
        "hpsv2-antialias": _hpsv2,
        "imagereward": _imagereward,
    }
    device = job["device"]
    reward = loaders[job["reward"]](job["files"]).eval().to(device)
    images = load_file(job["images"])["images"].to(device)
    seconds = []
    with torch.no_grad():
        scores = reward.score(images, job["prompts"])
        for _ in range(job["repeats"]):
            started = time.perf_counter()
            reward.score(images, job["prompts"])
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    peak = _peak_mib()
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    answer = {
        "scores": scores.flatten().tolist(),
        "seconds": seconds,
        "peak": peak,
        "versions": {"imscore": version("imscore")},
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
