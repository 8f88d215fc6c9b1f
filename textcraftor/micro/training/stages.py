"""The stages that train the embedded world, as a table; `build_cells` makes resumable cells of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from tcbench.cells import WorkCell, unfinished_cells
from tcbench.errors import MissingFiles
from tcbench.progress import Progress


@dataclass(frozen=True)
class _Stage:
    """A part of the world that one function trains."""

    train: str
    """"module:function". The function is called with the folder of the build; it resumes by itself, reads the
    results of other stages from the folder and writes its own there.
    """
    needs: tuple[str, ...] = ()
    """Stages whose results it reads."""
    plans: tuple[str, ...] = ()
    """Names of its training plans in order, if they are not just the stage's name."""


STAGES: Mapping[str, _Stage] = {
    "tokenizer": _Stage("rewards.world.training.tokenizer:train_tokenizer"),
    "patches": _Stage("textcraftor.micro.training.vae:patch_latents"),
    "world-clip-read": _Stage("rewards.world.training.clip:train_clip_text", ("tokenizer",)),
    "unet": _Stage(
        "textcraftor.micro.training.unet:train_unet", ("world-clip-read", "patches"), ("unet", "unet-looks")
    ),
    "text-encoder": _Stage("textcraftor.micro.training.text:train_text_encoder", ("unet",)),
    "world-clip": _Stage(
        "rewards.world.training.clip:train_clip",
        ("world-clip-read",),
        ("world-clip-look", "world-clip", "world-clip-even"),
    ),
    "vae": _Stage(
        "textcraftor.micro.training.vae:train_vae",
        ("patches",),
        ("vae-decoder", "vae-decoder-sharp", "vae-encoder"),
    ),
    "world-pick": _Stage("rewards.world.training.preferences:train_pick", ("world-clip",)),
    "world-hps": _Stage("rewards.world.training.preferences:train_hps", ("world-clip",)),
    "world-siglip": _Stage(
        "rewards.world.training.siglip:train_siglip",
        ("tokenizer",),
        ("world-siglip-look", "world-siglip", "world-siglip-even"),
    ),
    "world-blip": _Stage(
        "rewards.world.training.blip:train_blip",
        (),
        ("world-blip-look", "world-blip-align", "world-blip", "world-blip-taste"),
    ),
    "world-vqa": _Stage(
        "rewards.world.training.vqa:train_vqa",
        (),
        ("world-vqa-look", "world-vqa-align", "world-vqa", "world-vqa-again"),
    ),
    "world-aesthetic": _Stage("rewards.world.training.aesthetic:train_aesthetic", ("world-clip",)),
    "rewriter": _Stage("textcraftor.micro.training.rewriter:train_rewriter"),
}
"""By name, in the order in which they start: the longest chain, world-clip-read then unet, comes first."""

REWARDS = (
    "tokenizer",
    "world-clip",
    "world-aesthetic",
    "world-pick",
    "world-hps",
    "world-siglip",
    "world-blip",
    "world-vqa",
)
"""Subfolders of a build that are shipped with the package ``rewards``."""


def build_cells(device: str = "cpu") -> list[WorkCell]:
    """Return the stages as resumable cells (`tcbench.cells.run_cells`) that train on ``device``."""
    return [
        WorkCell(name, name, partial(_run_stage, name=name, device=device), needs=stage.needs)
        for name, stage in STAGES.items()
    ]


def _run_stage(folder: Path, progress: Progress, name: str, device: str) -> list[Path]:
    import torch

    torch.set_default_device(device)
    module, _, function = STAGES[name].train.partition(":")
    getattr(import_module(module), function)(folder)
    return []


def training_state(folder: Path, name: str) -> str:
    """Describe how far a stage is by the last line of its newest log: step, loss and seconds per step."""
    for plan in reversed(STAGES[name].plans or (name,)):
        log = folder / f"{plan}.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        complete = [
            line for line in lines if line.endswith("\n")
        ]  # another process may be writing the last line
        if complete:
            row = json.loads(complete[-1])
            return f"step {row['step']}, loss {row['loss']:.4f}, {row['seconds_per_step']:.2f} s per step"
    return "starting"


def install_world(folder: Path, rewards: Path, pipeline: Path) -> None:
    """Replace the shipped weights by those of a finished build.

    Args:
        folder: Folder of the build.
        rewards: Folder of the trained rewards; it is replaced.
        pipeline: Folder of the micro pipeline; it is replaced. The rewriter goes beside it.

    Raises:
        MissingFiles: If a stage is not finished.
    """
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    from rewards.world.training.tokenizer import TOKENIZER
    from textcraftor.micro.training.export import write_pipeline
    from textcraftor.micro.training.rewriter import REWRITER
    from textcraftor.micro.training.text import PLAN as TEXT_ENCODER
    from textcraftor.micro.training.unet import load_trained_unet

    missing = [cell.name for cell in unfinished_cells(build_cells(), folder)]
    if missing:
        raise MissingFiles(
            f"{folder}: unfinished stages {', '.join(missing)}: run tcbench world build --folder {folder}"
        )
    shutil.rmtree(rewards, ignore_errors=True)
    for name in REWARDS:
        shutil.copytree(folder / name, rewards / name)
    unet = load_trained_unet(folder).unet
    text_encoder = CLIPTextModel.from_pretrained(folder / TEXT_ENCODER.name)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    write_pipeline(pipeline, folder / TOKENIZER, text_encoder, unet, vae)
    shutil.copytree(folder / REWRITER, pipeline.parent / "rewriters" / REWRITER, dirs_exist_ok=True)
