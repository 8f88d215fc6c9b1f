"""Training configuration: a frozen record in groups, from defaults, a profile, a TOML file and ``--set``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from tcbench.errors import ConfigError, UnknownName
from tcbench.settings import build_settings, merge, parse_assignment, read_toml, validated
from textcraftor.diffusion.models import Model
from textcraftor.diffusion.schedule import MEMORYLESS, Schedule
from textcraftor.old_names import OLD_NAMES, current_layout, flatten_settings, nest_settings
from textcraftor.profiles import PROFILES
from textcraftor.settings import (
    ON_DECISIONS,
    ON_PAIRS,
    TRAINABLE,
    WITHOUT_GRADIENT,
    AlgorithmSettings,
    DataSettings,
    LoggingSettings,
    MemorySettings,
    OptimiserSettings,
    RewardSettings,
    TrainableSettings,
    ValidationSettings,
)

_ONE_STEP_PREDICTION = ("one-step", "low-variance", "nft", *ON_PAIRS)
"""Algorithms that predict clean latents in one step, for which the sampler must be ddim."""

_SAMPLERS = ("ddim", "euler", "dpm++2m", "pndm")
"""Samplers that training supports: one evaluation of the UNet a step, and no noise but ddim's."""

_IN_GROUPS = ("grpo", "nft", "rewriting")
"""Algorithms that compare the samples of a group."""

_TUNED_STEPS = 5
"""The paper's K."""


@validated
class TrainConfig:
    """Everything that decides the weights of a training run, and where it logs.

    Make one with `make_config`, which starts from the model's own defaults.
    """

    model: str
    """Base model: a name, a diffusers folder, or a hub id with ``@revision`` if needed."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed for prompt order, noise and adapters."""
    rewards: RewardSettings = field(default_factory=RewardSettings)
    """Rewards to maximise."""
    data: DataSettings = field(default_factory=DataSettings)
    """Prompts, noise and pairs."""
    trainable: TrainableSettings = field(default_factory=TrainableSettings)
    """Trained parts of the model."""
    schedule: Schedule = field(default_factory=lambda: Schedule(tuned_steps=_TUNED_STEPS))
    """Sampling in training. ``tuned_steps`` is K: the last steps, which use the tuned encoder and carry
    gradients.
    """
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    """Updates, batches and AdamW."""
    algorithm: AlgorithmSettings = field(default_factory=AlgorithmSettings)
    """Training method."""
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    """Validation and checkpoint selection."""
    memory: MemorySettings = field(default_factory=MemorySettings)
    """Memory and speed."""
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    """Checkpoints and logs."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def eval_tuned_steps(self) -> int:
        """Number of last steps that use the tuned encoder after training."""
        return self.validation.eval_tuned_steps or self.schedule.steps

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainConfig:
        """Read the configuration of a train.json, also of the flat layout of earlier versions."""
        return build_settings(cls, current_layout(record), source="train.json")


def make_config(
    model: str,
    *,
    profile: str = "default",
    file: Path | None = None,
    settings: Sequence[str] = (),
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> TrainConfig:
    """Make a configuration; later sources win over earlier ones.

    The sources are the defaults, the model's own settings, a profile, a TOML file, ``settings`` and
    ``overrides``. The model's own reward mix depends on whether the rewards are balanced.

        make_config("micro", profile="quick", overrides={"optimiser.lr": 1e-4, "seed": 1})

    Args:
        model: Base model: a name, a diffusers folder, or a hub id.
        profile: One of `PROFILES`.
        file: TOML file with tables such as ``[optimiser]``.
        settings: Assignments such as "optimiser.lr=1e-4"; the value is TOML or plain text.
            Repeated assignments to a list are combined.
        overrides: Values by dotted name; None is ignored.

    Raises:
        UnknownName: For an unknown profile, field or choice; with close matches.
        ConfigError: For a wrong value, or another ``model`` in the file, ``settings`` or ``overrides``.
        Problems: For several of these.
    """
    if profile not in PROFILES:
        raise UnknownName("profile", profile, PROFILES)
    base = Model.find(model)
    own: dict[str, Any] = {
        "schedule.guidance": base.guidance,
        "schedule.tuned_steps": _TUNED_STEPS,
        **base.training,
    }
    given = nest_settings(PROFILES[profile])
    if file is not None:
        given = merge(given, read_toml(file))
    given = merge(given, _assigned(settings))
    given = merge(given, nest_settings({name: v for name, v in overrides.items() if v is not None}))
    values = merge(nest_settings({"model": model, **own}), given)
    if (
        base.summed_mix
        and _sums_rewards(values)
        and not {"rewards", "rewards.mix"} & {*flatten_settings(given)}
    ):
        values = merge(values, nest_settings({"rewards.mix": base.summed_mix}))
    sources = [str(file)] * (file is not None) + ["--set"] * bool(settings)
    if values["model"] != model:
        # the defaults above are those of the model argument
        raise ConfigError(
            f"model = {values['model']!r} in the settings, but {model!r} was given as the model; remove "
            "model from the settings, or give the same model"
        )
    return build_settings(TrainConfig, values, source=" and ".join(sources), renamed=OLD_NAMES)


def _sums_rewards(values: Mapping[str, Any]) -> bool:
    """Whether the rewards' weighted sum is maximised, without balance."""
    flat = flatten_settings(values)
    return flat.get("rewards.balance") is False or flat.get("algorithm.name") in WITHOUT_GRADIENT


def _assigned(settings: Sequence[str]) -> dict[str, Any]:
    """Return the values of assignments: a later one wins. Repeated assignments to a list are combined."""
    defaults = flatten_settings(asdict(TrainConfig("")))
    values: dict[str, Any] = {}
    for text in settings:
        for name, value in flatten_settings(parse_assignment(text)).items():
            repeated = name in values and isinstance(defaults.get(name), tuple)
            values[name] = f"{_joined(values[name])},{_joined(value)}" if repeated else value
    return nest_settings(values)


def _joined(value: Any) -> str:
    """Return a list, or a text that stands for one, as comma-separated names."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).strip().removeprefix("[").removesuffix("]")


def _check(config: TrainConfig) -> None:
    """Check settings that depend on each other.

    Raises:
        ConfigError: For settings that exclude or require each other.
    """
    name, parts, pairs = config.algorithm.name, config.trainable.parts, config.data.pairs
    steps, eval_steps = config.schedule.steps, config.validation.eval_tuned_steps
    if eval_steps > steps:
        raise ConfigError(
            f"validation.eval_tuned_steps = {eval_steps} is more than schedule.steps = {steps}; lower it or "
            "raise schedule.steps"
        )
    if not parts or len(set(parts)) < len(parts):
        problem = f"has {', '.join(parts)}" if parts else "is empty"
        raise ConfigError(f"trainable.parts {problem}; expected some of {', '.join(TRAINABLE)}, each once")
    if (name in ON_PAIRS) != bool(pairs):
        raise ConfigError(
            f'algorithm.name = "{name}" with data.pairs = "{pairs}"; {" and ".join(ON_PAIRS)} require a '
            "folder of pairs, other algorithms require none"
        )
    if pairs and config.data.prompts:
        raise ConfigError('data.pairs already has the prompts; set data.prompts = ""')
    if name == "conditioning" and "unet" in parts:
        raise ConfigError('"conditioning" gives the UNet no gradient; set algorithm.name = "detached-chain"')
    batch, group = config.optimiser.batch, config.data.group
    if batch % group:
        raise ConfigError(f"optimiser.batch = {batch} is not a multiple of data.group = {group}")
    if config.memory.prefix_cache and ("unet" in parts or pairs):
        raise ConfigError(
            "memory.prefix_cache requires a frozen prefix, which a trained UNet and data.pairs do not have; "
            'set memory.prefix_cache = ""'
        )
    if name in _IN_GROUPS and group < 2:
        raise ConfigError(f'"{name}" compares samples of one prompt; set data.group to 2 or more')
    _check_sampler(config)
    _check_rewards(config)
    _check_rewriting(config)


def _check_sampler(config: TrainConfig) -> None:
    name, sampler = config.algorithm.name, config.schedule.sampler
    if (name in ON_DECISIONS) != (config.schedule.eta > 0):
        raise ConfigError(
            f'algorithm.name = "{name}" with schedule.eta = {config.schedule.eta:g}; '
            f"{' and '.join(ON_DECISIONS)} require eta > 0, other algorithms require eta = 0"
        )
    if sampler not in _SAMPLERS:
        raise ConfigError(
            f'schedule.sampler = "{sampler}" cannot be trained with; set it to {", ".join(_SAMPLERS)}'
        )
    if name in _ONE_STEP_PREDICTION and sampler != "ddim":
        raise ConfigError(
            f'algorithm.name = "{name}" with schedule.sampler = "{sampler}"; set schedule.sampler = "ddim", '
            "or algorithm.name to chain or conditioning"
        )
    if config.memory.prefix_cache and sampler not in MEMORYLESS:
        raise ConfigError(
            f"memory.prefix_cache keeps latents only, but sampler {sampler} remembers earlier steps; set "
            f'schedule.sampler to {" or ".join(MEMORYLESS)}, or memory.prefix_cache to ""'
        )


def _check_rewards(config: TrainConfig) -> None:
    name, rewards = config.algorithm.name, config.rewards
    if rewards.constraints and name in WITHOUT_GRADIENT:
        raise ConfigError(
            f'rewards.constraints = {list(rewards.constraints)} with algorithm.name = "{name}", which does '
            "not use the gradients of rewards; set rewards.constraints = []"
        )
    if rewards.constraints and not rewards.calibration:
        raise ConfigError(
            "rewards.constraints compares with the untuned model's mean, which a calibration holds; set "
            "rewards.calibration"
        )
    if config.algorithm.kl_penalty and (name not in ON_DECISIONS or "unet" in config.trainable.parts):
        raise ConfigError(
            f"algorithm.kl_penalty requires algorithm.name = {' or '.join(ON_DECISIONS)} and a frozen UNet, "
            "whose untuned text encoder is the reference; set it to 0"
        )


def _check_rewriting(config: TrainConfig) -> None:
    trainable, steps = config.trainable, config.schedule.steps
    rewriting = config.algorithm.name == "rewriting"
    if (trainable.parts == ("rewriter",)) != rewriting or bool(trainable.rewriter) != rewriting:
        raise ConfigError(
            'algorithm.name = "rewriting", trainable.parts = ["rewriter"] and trainable.rewriter require '
            "each other; set all three (--profile rewriter) or none"
        )
    if rewriting and trainable.start:
        raise ConfigError(
            f'trainable.start = "{trainable.start}" does not apply to a rewriter; to start from one, set '
            'trainable.rewriter to the checkpoint\'s folder `rewriter`, and trainable.start = ""'
        )
    if rewriting and trainable.lora_rank:
        raise ConfigError('"rewriting" trains all weights of its model; set trainable.lora_rank = 0')
    if rewriting and not steps == config.schedule.tuned_step_count == config.eval_tuned_steps:
        raise ConfigError(
            '"rewriting" uses the rewrite in all steps; set schedule.tuned_steps and '
            f"validation.eval_tuned_steps to schedule.steps = {steps}"
        )
