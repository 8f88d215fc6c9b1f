"""Groups of training settings, and the algorithms that they choose among."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tcbench.settings import one_of, validated

ON_PAIRS = ("direct", "denoising")
"""Algorithms that need real images."""

ALGORITHMS = (
    "chain", "conditioning", "detached-chain", "truncation", "one-step", "low-variance", *ON_PAIRS, "ddpo",
    "grpo", "nft", "rewriting",
)  # fmt: skip
ON_DECISIONS = ("ddpo", "grpo")
"""Algorithms that make the decisions of noisy sampling more or less likely."""
REINFORCEMENT = (*ON_DECISIONS, "nft", "rewriting")
"""Algorithms that compare the rewards of several samples."""
WITHOUT_GRADIENT = (*REINFORCEMENT, "denoising")
"""Algorithms that do not need a reward's gradient."""

TRAINABLE = ("text_encoder", "text_encoder_2", "unet", "rewriter")
PRECISIONS = ("float32", "bfloat16")
LR_SCHEDULES = ("constant", "linear", "cosine")

_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]
_Amount = Annotated[float, Field(ge=0)]


@validated
class RewardSettings:
    """The rewards that training maximises."""

    mix: str = ""
    """Reward mix, ``name=weight,name=weight@cap``; "": the profile's or the model's."""
    calibration: str = ""
    """Scores that the weights apply to: "" for official scores, "world" or a calibration file for
    standardised ones.
    """
    pool: _Count = 0
    """Average-pool images to this many pixels a side before rewards see them; 0: off."""
    balance: bool = False
    """Whether each reward's gradient at an image is scaled to the length of its weight. Otherwise the reward
    with the steepest gradient decides. Without effect on methods that use no gradient of rewards.
    """
    constraints: tuple[str, ...] = ()
    """Rewards of the mix whose mean must not fall below the untuned model's: their weights are multiplied by
    a factor that rises while they are below and falls while they are above. Needs a ``calibration`` on
    images of the untuned model.
    """


@validated
class DataSettings:
    """Prompts, their noise, and real images."""

    prompts: str = ""
    """Prompt source: a prompt file, ``suite:NAME`` or ``hub:ID[@revision][:column]``; "": the model's."""
    pairs: str = ""
    """Folder of real images with metadata.jsonl (``file_name``, ``text``), for "direct" and "denoising"."""
    noises: _Count = 0
    """Different noises of a prompt, over all epochs; 0: a new one in each epoch. Few noises make the prefix
    cache useful.
    """
    group: _Positive = 1
    """Consecutive samples of one prompt, each with its own noise."""


@validated
class TrainableSettings:
    """What is trained."""

    parts: tuple[Annotated[str, one_of("part to train", TRAINABLE)], ...] = ("text_encoder",)
    """Trained parts: text_encoder, text_encoder_2 (SDXL) and unet, or rewriter alone."""
    lora_rank: _Count = 0
    """Rank of adapters on the attention layers of the trained parts; 0: train all weights."""
    start: str = ""
    """Folder of a checkpoint to start from; "": the model. With ``parts = ["unet"]`` its text encoder stays
    frozen.
    """
    rewriter: str = ""
    """Prompt rewriter to start from, a name or a folder (`textcraftor.rewriters`), for "rewriting"."""
    tune_null: bool = True
    """Whether gradients of the empty prompt's embedding reach the text encoder too."""


@validated
class OptimiserSettings:
    """Updates, batches and AdamW."""

    updates: _Positive = 1000
    """Number of updates."""
    batch: _Positive = 8
    """Samples of an update, over all processes."""
    lr: _Amount = 1e-6
    """Learning rate of AdamW after warm-up."""
    lr_schedule: Annotated[str, one_of("learning-rate schedule", LR_SCHEDULES)] = "constant"
    """Learning rate after warm-up: constant, or linear or cosine to 0 at the last update."""
    warmup: _Count = 0
    """Updates over which the learning rate rises from 0."""
    weight_decay: _Amount = 0.01
    """Weight decay of AdamW."""
    clip: _Amount = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per update of averaged weights, which are then validated and saved; 0: off."""


@validated
class AlgorithmSettings:
    """The training method."""

    name: Annotated[str, one_of("algorithm", ALGORITHMS)] = "chain"
    """Estimator of the reward's gradient (`textcraftor.diffusion.estimators`), or "denoising" (supervised on
    pairs), "ddpo", "grpo" or "nft" (reinforcement learning) or "rewriting" (train a prompt rewriter).
    """
    bound_gradients: bool = False
    """Whether a sample's gradient at every step is bounded by its length at the final latents. Without
    effect where no gradient passes from step to step: "chain" and "truncation" only.
    """
    drift_penalty: _Amount = 0.0
    """Weight of the embedding's squared distance from the original's, in its variance; for "rewriting", of
    the language model's divergence per token from its start. 0: off.
    """
    policy_updates: _Positive = 2
    """Optimiser steps of an update, each on its share of the samples; reinforcement learning only."""
    policy_steps: _Count = 0
    """Sampling steps that an update trains on, chosen at random; 0: all. "ddpo", "grpo" and "nft" only."""
    min_noise: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Steps whose noise is below this share of the largest one's are not trained on; "ddpo" and "grpo"
    only.
    """
    ratio_clip: Annotated[float, Field(gt=0)] = 1e-4
    """Clip range of the importance ratio around 1: of a token ("rewriting"), or of a step of latents of
    16,384 elements, and wider for smaller ones ("ddpo" and "grpo").
    """
    kl_penalty: _Amount = 0.0
    """Weight of the divergence of a step from the untuned model's, per element; "ddpo" and "grpo" only."""


@validated
class ValidationSettings:
    """Periodic validation, checkpoint selection, and how images are generated after training."""

    prompts: str = ""
    """Prompt source (as in [data]) for validation; "": the model's."""
    prompt_count: Annotated[int, Field(ge=2)] = 32
    """Number of validation prompts."""
    every: _Count = 50
    """Updates between two validations; 0: off."""
    selection_reward: str = ""
    """Reward that selects the checkpoint, neither trained on nor a judge; "": the newest checkpoint is
    used.
    """
    stop_on_alarm: bool = False
    """Stop when the selection reward falls while the trained ones rise."""
    eval_tuned_steps: _Count = 15
    """Number of last sampling steps that use the tuned encoder when images are generated in validation and
    after training, up to schedule.steps; 0: all.
    """


@validated
class MemorySettings:
    """Memory and speed; results differ by rounding at most."""

    micro_batch: _Count = 0
    """Samples at a time on one device, whose gradients are accumulated; 0: all."""
    precision: Annotated[str, one_of("precision", PRECISIONS)] = "float32"
    """Precision of forward passes and frozen weights; trained weights and optimiser stay in float32."""
    checkpointing: bool = False
    """Gradient checkpointing: recompute a UNet step for its gradient; less memory, a third more work."""
    decode_slice: _Count = 0
    """Images decoded and scored at a time; 0: all."""
    compile: bool = False
    """Whether to compile the UNet with torch.compile."""
    offload: bool = False
    """Whether rewards stay on the CPU and take turns on the device."""
    prefix_cache: str = ""
    """Folder of a cache of the latents before the tuned steps; "": off."""
    prefix_gigabytes: _Amount = 4.0
    """Largest size of that cache in gigabytes; files that were not used for longest are removed."""


@validated
class LoggingSettings:
    """Checkpoints and logs."""

    method: str = ""
    """Name of the method on a leaderboard, for runs that differ in their seed only; "": none."""
    save_every: _Positive = 50
    """Updates between two checkpoints."""
    keep: _Positive = 2
    """Checkpoints that are kept beside the best one."""
    trackers: tuple[str, ...] = ()
    """Trackers of accelerate: tensorboard, wandb or trackio."""
