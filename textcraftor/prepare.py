"""What a training run is made of, found and checked before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewards.base import Reward
from rewards.combine.mix import RewardMix, load_mix
from rewards.combine.terms import parse_mix
from rewards.info import RewardInfo, check_role
from rewards.registry import info, load
from tcbench.errors import ConfigError
from tcbench.progress import Progress
from textcraftor.config import WITHOUT_GRADIENT, TrainConfig
from textcraftor.diffusion.models import Model
from textcraftor.diffusion.pipeline import encoders_sha256, pipeline_sha256
from textcraftor.diffusion.prefix_cache import PrefixCache
from textcraftor.diffusion.runner import PipelineRunner
from textcraftor.rewriters import find_model, find_rewriter, settings
from textcraftor.sources import PromptSource, find_prompts


def completed(config: TrainConfig, model: Model) -> TrainConfig:
    """With the model's own values where the configuration leaves them open."""
    if not config.rewards:
        raise ConfigError(
            "no rewards to maximise: give a mix such as pickscore=1,hpsv2=100,clip-cosine=100 (--rewards)"
        )
    guidance = model.guidance if config.guidance is None else config.guidance
    return replace(config, guidance=float(guidance))


def check_rewards(config: TrainConfig) -> dict[str, RewardInfo]:
    """Records of the trained rewards. Raises WrongRole for a judge, ConfigError for one without the gradient
    that an estimator needs.
    """
    found = {name: info(name) for name in parse_mix(config.rewards)}
    for record in found.values():
        check_role(record, "training")
        if not record.differentiable and config.estimator not in WITHOUT_GRADIENT:
            raise ConfigError(
                f"{record.name} has no gradient; take a differentiable reward (`tcbench ls rewards`), or "
                "reinforcement learning (--profile ddpo)"
            )
    if config.selection:
        check_role(info(config.selection), "selection")
        if info(config.selection).name in {record.name for record in found.values()}:
            raise ConfigError(
                f"{config.selection} is trained on: checkpoints must be chosen by another reward (selection)"
            )
    return found


def load_rewards(config: TrainConfig, device: str) -> tuple[RewardMix, Reward | None]:
    """The mix that is maximised, and the reward that checkpoints are chosen by."""
    mix = load_mix(config.rewards, calibration=config.calibration, device=device, offload=config.offload)
    return mix, load(config.selection, device=device) if config.selection else None


def find_held(config: TrainConfig, progress: Progress) -> PromptSource | None:
    """Validation prompts. Raises ConfigError if checkpoints are to be chosen without any."""
    if config.validate_every and config.validation:
        return find_prompts(config.validation)
    if config.selection:
        raise ConfigError(
            f"there is nothing to choose checkpoints on by {config.selection}: set validation to a "
            "prompt file, and validate_every"
        )
    if config.validate_every:
        progress.note("no validation prompts (validation = FILE): the newest checkpoint is kept")
    return None


def prefix_cache(config: TrainConfig, pipeline: Path) -> PrefixCache | None:
    """The cache that is asked for. Raises ConfigError where there is no frozen prefix to keep."""
    if not config.prefix_cache:
        return None
    if "unet" in config.trains or config.pairs:
        raise ConfigError(
            "there is no frozen prefix to keep when the UNet is trained or pairs are used: set "
            'prefix_cache = ""'
        )
    settings = {
        "pipeline": pipeline_sha256(pipeline),
        "before": config.steps - config.tuned_steps,
        **{
            name: getattr(config, name)
            for name in ("steps", "sampler", "spacing", "guidance", "size", "precision")
        },
    }
    return PrefixCache(Path(config.prefix_cache).expanduser(), settings, config.prefix_gigabytes)


def start_sha256(config: TrainConfig) -> str | None:
    """Of the checkpoint or language model that training begins with; None if that is the model alone."""
    if config.rewriter:
        rewriter = find_rewriter(config.rewriter)
        return str(settings(rewriter, find_model(rewriter))["sha256"])
    return encoders_sha256(Path(config.start)) if config.start else None


def time_ids(pipe: Any, drawing: PipelineRunner) -> Tensor | None:
    """What SDXL is told of sizes: (1, 6) original size, crop, target size; None for other models."""
    if getattr(pipe, "text_encoder_2", None) is None:
        return None
    height, width = drawing.size
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=pipe.device)


def learning_rate(config: TrainConfig) -> Any:
    """Factor of the learning rate by update, as diffusers' schedules have it."""
    from diffusers.optimization import get_scheduler

    spare = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rising = config.lr_schedule == "constant" and config.warmup
    schedule = get_scheduler(
        "constant_with_warmup" if rising else config.lr_schedule,
        spare,
        num_warmup_steps=config.warmup,
        num_training_steps=config.updates,
    )
    return schedule.lr_lambdas[0]
