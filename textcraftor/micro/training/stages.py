"""Training the whole embedded world from seeds: a table of resumable stages, processes side by side.

``python -m textcraftor.micro.training.stages STAGE FOLDER`` runs one stage; `build` runs all whose inputs
are there, a core each, and skips what is finished. A finished stage leaves ``FOLDER/<stage>.done`` with its
training seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZER = "tokenizer"
CLIP_READ, CLIP = "world-clip-read", "world-clip"
EXTEND = "world-extend"


@dataclass(frozen=True)
class Stage:
    """What is trained, the stages it needs, and its plans, one after the other, where it has not just one."""

    name: str
    run: Callable[[Path], None]
    needs: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()


def _tokenizer(folder: Path) -> None:
    from rewards.world.training.tokenizer import caption_corpus, write_tokenizer

    write_tokenizer(folder / TOKENIZER, caption_corpus())


def _clip_read(folder: Path) -> None:
    from rewards.world.training import clip

    model = clip.read(folder / TOKENIZER, folder)
    clip.save(model, len(clip.Tokens(folder / TOKENIZER)), folder / CLIP_READ)


def _clip(folder: Path) -> None:
    from rewards.world.training import clip

    model = clip.train(folder / TOKENIZER, folder / CLIP_READ, folder)
    clip.save(model, len(clip.Tokens(folder / TOKENIZER)), folder / CLIP)


def _vae(folder: Path) -> None:
    from textcraftor.micro.training import vae

    vae.train(folder).half().save_pretrained(folder / "vae")


def _patches(folder: Path) -> None:
    from textcraftor.micro.training import vae

    vae.patches(folder)


def _unet(folder: Path) -> None:
    from textcraftor.micro.training import unet

    unet.train(folder / TOKENIZER, folder / CLIP_READ, folder)


def _pick(folder: Path) -> None:
    from rewards.world.training import clip, preferences

    plan, rater = preferences.PICK_PLAN, preferences.PICK_RATER
    model = preferences.train(folder / TOKENIZER, folder / CLIP, folder, plan, rater)
    converted: Any = preferences.as_transformers(model, clip.Tokens(folder / TOKENIZER))
    converted.half().save_pretrained(folder / plan.name)


def _hps(folder: Path) -> None:
    from rewards.world.training import clip, preferences

    plan, rater = preferences.HPS_PLAN, preferences.HPS_RATER
    model = preferences.train(folder / TOKENIZER, folder / CLIP, folder, plan, rater)
    clip.save(model, len(clip.Tokens(folder / TOKENIZER)), folder / plan.name)


def _siglip(folder: Path) -> None:
    from rewards.world.training import siglip

    siglip.train(folder / TOKENIZER, folder).half().save_pretrained(folder / siglip.PLAN.name)


def _blip(folder: Path) -> None:
    from rewards.world.training import ranker

    vocabulary = ranker.write_vocabulary(folder / ranker.PLAN.name)
    ranker.save(ranker.train(vocabulary, folder), folder / ranker.PLAN.name)


def _rewriter(folder: Path) -> None:
    from textcraftor.micro.training import rewriter

    rewriter.train(folder)


def _aesthetic(folder: Path) -> None:
    from rewards.world.training import aesthetic

    aesthetic.save(aesthetic.train(folder / TOKENIZER, folder / CLIP, folder), folder / aesthetic.PLAN.name)


STAGES = {
    stage.name: stage
    for stage in (
        Stage("tokenizer", _tokenizer),
        Stage("patches", _patches),
        Stage("world-clip-read", _clip_read, ("tokenizer",)),
        Stage("unet", _unet, ("world-clip-read", "patches")),
        Stage("world-clip", _clip, ("world-clip-read",), ("world-clip-look", "world-clip")),
        Stage("vae", _vae, ("patches",), ("vae-decoder", "vae-encoder")),
        Stage("world-pick", _pick, ("world-clip",)),
        Stage("world-hps", _hps, ("world-clip",)),
        Stage("world-siglip", _siglip, ("tokenizer",), ("world-siglip-look", "world-siglip")),
        Stage("world-blip", _blip, (), ("world-blip-look", "world-blip-align", "world-blip")),
        Stage("world-aesthetic", _aesthetic, ("world-clip",)),
        Stage("rewriter", _rewriter),
    )
}
"""In order of preference: the longest chain, world-clip-read then unet, comes first."""

REWARDS = (
    "tokenizer",
    "world-clip",
    "world-aesthetic",
    "world-pick",
    "world-hps",
    "world-siglip",
    "world-blip",
)
"""Folders that are shipped with the package ``rewards``."""


class BuildFailed(ValueError):
    """A stage ended with an error; the message names its log."""


def finished(folder: Path, stage: str) -> bool:
    """Whether a stage has run to its end in this folder."""
    return (folder / f"{stage}.done").exists()


def run_stage(name: str, folder: Path, device: str = "cpu") -> None:
    """Run one stage to its end in this process and mark it finished.

    Raises BuildFailed while another process runs it, such as one whose parent was killed.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.set_default_device(device)
    began = time.monotonic()
    with (folder / f"{name}.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildFailed(f"another process trains {name} in {folder}: wait for it or end it") from error
        STAGES[name].run(folder)
    record = {"stage": name, "seconds_of_last_process": round(time.monotonic() - began, 1), "device": device}
    (folder / f"{name}.done").write_text(json.dumps(record) + "\n", encoding="utf-8")


def build(folder: Path, jobs: int, device: str = "cpu") -> Iterator[dict[str, str]]:
    """Run every unfinished stage, at most ``jobs`` at a time, one thread each on the CPU.

    Yields about once a second what each running stage is at, stage -> text. Raises `BuildFailed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while len(done := {name for name in STAGES if finished(folder, name)}) < len(STAGES):
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if not finished(folder, name):
                        raise BuildFailed(
                            f"stage {name} failed; its output is in {folder / name}.log; run again to resume"
                        )
            ready = (s for s in STAGES.values() if s.name not in done | set(running) and set(s.needs) <= done)
            for stage in ready:
                if len(running) < jobs:
                    running[stage.name] = _start(stage.name, folder, device)
            yield {name: progress(folder, name) for name in running}
            time.sleep(1.0)
    finally:
        for process in running.values():
            process.terminate()  # where a stage is finished its process has nothing left to lose
            process.wait()


ONE_CORE = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc gives large blocks back to the system at once and faults them in anew at every step: keeping them
    # made a step of the UNet 1.2 times as fast.
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Environment of a stage that is trained on one CPU core."""


def _start(name: str, folder: Path, device: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "textcraftor.micro.training.stages", name, str(folder), device]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | (ONE_CORE if device == "cpu" else {})
        )


def progress(folder: Path, name: str) -> str:
    """Where a stage is, from the last line of its newest log: step, loss and seconds a step."""
    for plan in reversed(STAGES[name].plans or (name,)):
        log = folder / f"{plan}.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        written = [line for line in lines if line.endswith("\n")]  # the last one may be on its way
        if written:
            row = json.loads(written[-1])
            return f"step {row['step']}, loss {row['loss']:.4f}, {row['seconds_per_step']:.2f} s a step"
    return "starting"


def install(folder: Path, rewards: Path, pipeline: Path) -> None:
    """Put the finished weights where the packages ship them: ``rewards`` and ``pipeline`` are made anew, and
    beside the latter the rewriter that was taught by examples.
    """
    import torch
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file

    from rewards.world.training.clip import Tokens
    from textcraftor.micro.training import unet
    from textcraftor.micro.training.folder import write_pipeline

    missing = [name for name in STAGES if not finished(folder, name)]
    if missing:
        raise BuildFailed(f"{folder} lacks the stages {', '.join(missing)}; build them first")
    shutil.rmtree(rewards, ignore_errors=True)
    for name in REWARDS:
        shutil.copytree(folder / name, rewards / name)
    tokens = Tokens(folder / TOKENIZER)
    model = unet.Denoiser(unet.build_unet(), unet.build_text_encoder(tokens))
    state = load_file(folder / "unet.safetensors")
    model.load_state_dict(
        {k.removeprefix("average."): v for k, v in state.items() if k.startswith("average.")}
    )
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    write_pipeline(pipeline, folder / TOKENIZER, model.text_encoder, model.unet, vae)
    shutil.copytree(folder / EXTEND, pipeline.parent / "rewriters" / EXTEND, dirs_exist_ok=True)


if __name__ == "__main__":
    run_stage(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
