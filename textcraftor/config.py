"""What a training run is asked to do: one frozen record, of defaults, a profile, a TOML file, ``--set``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tcbench.errors import ConfigError, UnknownName
from textcraftor.diffusion.models import find_model
from textcraftor.diffusion.schedule import SAMPLERS, SPACINGS

ON_PAIRS = ("direct", "denoising")
"""Estimators that need real images."""

ESTIMATORS = (
    "chain", "conditioning", "detached-chain", "truncation", "one-step", "low-variance", *ON_PAIRS, "ddpo",
    "rewriting",
)  # fmt: skip
WITHOUT_GRADIENT = ("ddpo", "rewriting", "denoising")
"""Estimators that ask no gradient of a reward."""

TRAINABLE = ("text_encoder", "text_encoder_2", "unet", "rewriter")
PRECISIONS = ("float32", "bfloat16")
LR_SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run's weights come to, and where they are kept.

    K and T are those of the paper: T sampling steps, the last K of which are run by the tuned encoder and
    carry gradients; the steps before are run by the original one.
    """

    model: str
    """A named model, a diffusers folder, or a hub id (with ``@revision``, if need be)."""
    rewards: str = ""
    """The mix that is maximised, ``name=weight,name=weight@cap``; "": that of the profile."""
    calibration: str = ""
    """What weights are of: "" official scores, "world" or a calibration file: standardised ones."""
    prompts: str = ""
    """A prompt file, ``hub:ID[@revision][:column]``, "world"; "": the model's own."""
    start: str = ""
    """Checkpoint to begin with; ``trains = ["unet"]`` keeps its text encoder as it is. "": the model."""
    pairs: str = ""
    """Folder of real images with metadata.jsonl (``file_name``, ``text``), for "direct" and "denoising"."""

    rewriter: str = ""
    """Of "rewriting": the language model that it begins with, a name or folder (`textcraftor.rewriters`)."""

    trains: tuple[str, ...] = ("text_encoder",)
    """Of text_encoder, text_encoder_2 (SDXL), unet; "rewriter" alone."""
    lora_rank: int = 0
    """Rank of adapters on the attention of what is trained; 0: all weights are."""
    estimator: str = "chain"
    """How the reward's gradient is estimated (`textcraftor.diffusion.sampling`); "denoising" imitates pairs,
    "ddpo" learns from rewards that have no gradient, and so does "rewriting", which trains a prompt rewriter.
    """
    sampler: str = "ddim"
    steps: int = 25
    """T."""
    tuned_steps: int = 5
    """K."""
    drawn_tuned_steps: int = 15
    """Of T steps, the last that the tuned encoder runs when images are drawn after training."""
    guidance: float | None = None
    """Scale of classifier-free guidance, in training and after; None: the model's own."""
    size: tuple[int, int] | None = None
    """(height, width), pixels; None: the model's own."""
    spacing: str = ""
    """Timestep spacing of the scheduler: "leading", "trailing", "linspace"; "": the model's own."""
    tune_null: bool = True
    """Whether the empty prompt's embedding passes gradients to the encoder too."""
    reward_pool: int = 0
    """Average-pool images to this many pixels a side before rewards see them; 0: no."""

    updates: int = 1000
    """Optimiser steps."""
    batch: int = 8
    """Samples of an update, over all processes."""
    micro_batch: int = 0
    """Samples at a time on one device, whose gradients are accumulated; 0: all of its share."""
    noises: int = 0
    """Different noises of a prompt, over the epochs; 0: always new. Few make the prefix cache useful."""
    lr: float = 1e-6
    """Of AdamW, after ``warmup`` updates."""
    lr_schedule: str = "constant"
    warmup: int = 0
    """Updates over which the learning rate rises."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    group: int = 1
    """Samples in a row of one prompt."""
    eta: float = 0.0
    """Noise of each of the last K sampling steps, as DDIM has it; "ddpo" alone decides by noise."""
    policy_updates: int = 2
    """Of "ddpo" and "rewriting": optimiser steps of an update, each on its share of the samples."""
    ratio_clip: float = 1e-4
    """Of "ddpo" and "rewriting": how far from 1 a decision's importance weight pays."""
    ema: float = 0.0
    """Decay an update of averaged weights, which are then the result; 0: off."""
    drift_penalty: float = 0.0
    """Weight of the embedding's mean squared distance from the original's, in its variance; of "rewriting",
    of the language model's divergence a token from its start. 0: off.
    """

    selection: str = ""
    """Reward that checkpoints are chosen by, neither trained on nor a judge; "": the last one is taken."""
    validation: str = ""
    """Prompt source for it; "": the model's own."""
    validation_prompts: int = 32
    validate_every: int = 50
    """Updates between two validations; 0: none."""
    stop_on_alarm: bool = False
    """End when the selection reward falls while the trained ones rise."""

    precision: str = "float32"
    """Of the forward passes; trained weights and their optimiser are float32."""
    checkpointing: bool = False
    """Make a UNet step's graph again for its gradient: less memory, a third more work."""
    decode_slice: int = 0
    """Images decoded and scored at a time; 0: all."""
    compile: bool = False
    """torch.compile the UNet."""
    offload: bool = False
    """Rewards take turns on the device."""
    prefix_cache: str = ""
    """Folder that keeps latents before the last K steps; "": none."""
    prefix_gigabytes: float = 4.0
    """Its largest size; what was used longest ago goes first."""

    seed: int = 0
    method: str = ""
    """What a leaderboard calls the runs that differ from this one in their seed alone; "": nothing."""
    save_every: int = 50
    """Updates between two checkpoints."""
    keep: int = 2
    """Checkpoints kept beside the best one."""
    trackers: tuple[str, ...] = ()
    """Of accelerate's: "tensorboard", "wandb", "trackio"."""

    def __post_init__(self) -> None:
        _check(self)

    def decisive(self) -> dict[str, Any]:
        """All that decides the weights, as JSON has it: a run with another is not gone on with."""
        free = set(FREE) - (set() if self.lr_schedule == "constant" else {"updates"})
        record = {name: value for name, value in asdict(self).items() if name not in free}
        return dict(json.loads(json.dumps(record)))


FREE = ("method", "updates", "keep", "save_every", "trackers", "prefix_gigabytes", "prefix_cache", "offload")
"""Fields that may change when a run is gone on with."""

PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": {
            "rewards": "clip-cosine=100,aesthetic-v2=1,pickscore=1,hpsv2=100",
            "calibration": "",
            "lr": 1e-6,
            "updates": 10_000,
            "batch": 256,
            "clip": 0.0,
            "guidance": 7.5,
        },
        "official-code": {
            "rewards": "clip-cosine=50,aesthetic-v2=3,pickscore=1,hpsv2=100",
            "calibration": "",
            "lr": 1e-6,
            "updates": 10_000,
            "batch": 32,
            "clip": 0.0,
            "guidance": 7.5,
            "spacing": "trailing",
            "reward_pool": 224,
            "checkpointing": True,
        },
        "ddpo": {
            "estimator": "ddpo",
            "steps": 50,
            "tuned_steps": 50,
            "drawn_tuned_steps": 50,
            "eta": 1.0,
            "guidance": 5.0,
            "lora_rank": 16,
            "lr": 3e-4,
            "weight_decay": 1e-4,
            "batch": 256,
            "policy_updates": 2,
        },
        "rewriter": {
            "estimator": "rewriting",
            "trains": ("rewriter",),
            "rewriter": "promptist",
            "steps": 20,
            "tuned_steps": 20,
            "drawn_tuned_steps": 20,
            "lr": 5e-5,
            "weight_decay": 0.0,
            "batch": 256,
            "group": 4,
            "policy_updates": 4,
            "ratio_clip": 0.2,
            "drift_penalty": 0.2,
        },
        "default": {},
        "quick": {"updates": 12, "batch": 4, "validate_every": 6, "validation_prompts": 8, "lr": 1e-4},
    }
)


def make_config(
    model: str,
    *,
    profile: str = "default",
    file: Path | None = None,
    settings: Sequence[str] = (),
    **given: Any,
) -> TrainConfig:
    """The configuration of defaults, the model's own, a profile, a TOML file, ``settings`` (``name=value``)
    and ``given``, the later before the earlier.

    Raises UnknownName for a profile or field that there is not, and ConfigError for a wrong value.
    """
    if profile not in PROFILES:
        raise UnknownName("profile", profile, PROFILES)
    values: dict[str, Any] = {**find_model(model).training, **PROFILES[profile]}
    if file is not None:
        values |= _typed(str(file), _read(file))
    values |= _typed("--set", dict(_assignment(text) for text in settings))
    values |= {name: value for name, value in given.items() if value is not None}
    return TrainConfig(**{**values, "model": model})


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _assignment(text: str) -> tuple[str, Any]:
    """``name=value``, the value as TOML has it, or bare text."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text!r} sets nothing; write name=value, such as lr=1e-4")
    try:
        return name.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


_KINDS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "float | None": (int, float)}
)


def _typed(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in their fields' types; a TOML list becomes a tuple."""
    annotations = {field.name: str(field.type) for field in fields(TrainConfig)}
    typed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in annotations:
            raise UnknownName(f"field in {where}", name, annotations)
        kind = annotations[name]
        if kind.startswith("tuple"):
            listed = value if isinstance(value, list) else [value]
            of = int if "int" in kind else str
            right = all(type(item) is of for item in listed) and (of is str or len(listed) == 2)
            typed[name] = tuple(listed)
            expected = "a list of two whole numbers" if of is int else "a list of names"
        else:
            right = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
            typed[name] = float(value) if right and "float" in kind else value
            expected = {"str": "text", "int": "a whole number", "bool": "true or false"}.get(kind, "a number")
        if not right:
            raise ConfigError(f"{where}: {name} = {value!r}; expected {expected}")
    return typed


_LOWEST: Mapping[str, float] = MappingProxyType(
    {
        "steps": 1, "tuned_steps": 1, "drawn_tuned_steps": 1, "updates": 1, "batch": 1,
        "validation_prompts": 2, "save_every": 1, "keep": 1, "lora_rank": 0, "reward_pool": 0,
        "group": 1, "eta": 0, "policy_updates": 1, "ratio_clip": 0,
        "micro_batch": 0, "noises": 0, "lr": 0, "warmup": 0, "weight_decay": 0, "clip": 0, "ema": 0,
        "drift_penalty": 0, "validate_every": 0, "decode_slice": 0, "prefix_gigabytes": 0,
    }
)  # fmt: skip


def _check(config: TrainConfig) -> None:
    for name, lowest in _LOWEST.items():
        value = getattr(config, name)
        if not value >= lowest:
            raise ConfigError(f"{name} is {value}; expected at least {lowest:g}")
    for name, highest in (("tuned_steps", "steps"), ("drawn_tuned_steps", "steps")):
        value, most = getattr(config, name), getattr(config, highest)
        if value > most:
            raise ConfigError(
                f"{name} is {value}, more than the {most} {highest}; lower it or raise {highest}"
            )
    for name, value, known in (
        ("estimator", config.estimator, ESTIMATORS),
        ("precision", config.precision, PRECISIONS),
        ("learning-rate schedule", config.lr_schedule, LR_SCHEDULES),
        ("sampler", config.sampler, SAMPLERS),
        ("timestep spacing", config.spacing or SPACINGS[0], SPACINGS),
        *(("part to train", part, TRAINABLE) for part in config.trains),
    ):
        if value not in known:
            raise UnknownName(name, value, known)
    _check_combinations(config)


def _check_combinations(config: TrainConfig) -> None:
    if not config.trains:
        raise ConfigError(f"trains names nothing; expected some of {', '.join(TRAINABLE)}")
    if (config.estimator in ON_PAIRS) != bool(config.pairs):
        raise ConfigError(
            f"the estimators {' and '.join(ON_PAIRS)} and a folder of pairs need each other; set both or none"
        )
    if config.pairs and config.prompts:
        raise ConfigError('pairs have texts of their own: set prompts to ""')
    if config.estimator == "conditioning" and "unet" in config.trains:
        raise ConfigError('the estimator "conditioning" gives the UNet no gradients; take "detached-chain"')
    if (config.estimator == "ddpo") != (config.eta > 0):
        raise ConfigError(
            'the estimator "ddpo" needs noise, and others have none: set eta = 1.0 for it alone'
        )
    if config.estimator == "ddpo" and config.sampler != "ddim":
        raise ConfigError(f'the estimator "ddpo" needs the sampler ddim, not {config.sampler}')
    if config.batch % config.group:
        raise ConfigError(f"batch is {config.batch}, group {config.group}; expected a multiple of the group")
    if not config.ema < 1:
        raise ConfigError(f"ema is {config.ema}; expected a decay below 1, such as 0.99")
    _check_rewriting(config)


def _check_rewriting(config: TrainConfig) -> None:
    asked = config.estimator == "rewriting"
    if (config.trains == ("rewriter",)) != asked or bool(config.rewriter) != asked:
        raise ConfigError(
            'the estimator "rewriting", trains = ["rewriter"] and a rewriter to begin with need each other: '
            "set all (--profile rewriter) or none"
        )
    if asked and config.lora_rank:
        raise ConfigError('the estimator "rewriting" trains all weights of its model: set lora_rank = 0')
    if asked and (config.group < 2 or not config.steps == config.tuned_steps == config.drawn_tuned_steps):
        raise ConfigError(
            'the estimator "rewriting" compares rewrites of one prompt, which are of all steps: set group to '
            "2 or more, and tuned_steps and drawn_tuned_steps to steps"
        )
