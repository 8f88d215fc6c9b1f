"""The stages that train the embedded world, as a table; `build_cells` makes resumable cells of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tcbench.cells import WorkCell, unfinished_cells
from tcbench.errors import MissingFiles
from tcbench.progress import Progress

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


def build_cells(device: str = "cpu") -> list[WorkCell]:
    """Return the stages as resumable cells (`tcbench.cells.run_cells`) that train on ``device``."""
    return [
        WorkCell(name, name, partial(_run_stage, name=name, device=device), needs=stage.needs)
        for name, stage in STAGES.items()
    ]


def _run_stage(folder: Path, progress: Progress, name: str, device: str) -> list[Path]:
    import torch

    torch.set_default_device(device)
    STAGES[name].run(folder)
    return []


def training_state(folder: Path, name: str) -> str:
    """Describe how far a stage is by the last line of its newest log: step, loss and seconds a step."""
    for plan in reversed(STAGES[name].plans or (name,)):
        log = folder / f"{plan}.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        written = [line for line in lines if line.endswith("\n")]  # the last one may be on its way
        if written:
            row = json.loads(written[-1])
            return f"step {row['step']}, loss {row['loss']:.4f}, {row['seconds_per_step']:.2f} s a step"
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
    from safetensors.torch import load_file

    from rewards.world.training.clip import Tokens
    from textcraftor.micro.training import unet
    from textcraftor.micro.training.folder import write_pipeline

    missing = [cell.name for cell in unfinished_cells(build_cells(), folder)]
    if missing:
        raise MissingFiles(
            f"{folder}: unfinished stages {', '.join(missing)}: run tcbench world build --folder {folder}"
        )
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
