"""Training configurations: precedence of sources, invalid settings, and records of earlier versions."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from rewards.combine.terms import parse_mix
from rewards.registry import info
from tcbench.errors import ConfigError, Problems, UnknownName
from textcraftor.config import TrainConfig, make_config
from textcraftor.io.checkpoint import _config_differences
from textcraftor.old_names import OLD_NAMES
from textcraftor.profiles import PROFILES


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'trainable.parts = ["unet"]\n[optimiser]\nlr = 2e-5\nbatch = 4\n[schedule]\nsize = [64, 32]\n'
    )
    config = make_config(
        "micro",
        file=file,
        settings=["optimiser.batch=2", "rewards.mix=world-pick=1"],
        overrides={"seed": 5, "optimiser.updates": None},
    )
    assert (config.optimiser.lr, config.optimiser.batch) == (2e-5, 2)
    assert (config.trainable.parts, config.schedule.size) == (("unet",), (64, 32))
    assert (config.rewards.mix, config.seed) == ("world-pick=1", 5)
    assert config.data.prompts == "suite:world-train"  # the model's own
    assert config.schedule.guidance == 3.0


def test_paper_profiles_have_the_published_numbers() -> None:
    paper = make_config("sd15", profile="paper")
    assert paper.rewards.mix == "clip-cosine=100,aesthetic-v2=1,pickscore=1,hpsv2=100"
    assert (paper.optimiser.lr, paper.optimiser.batch, paper.optimiser.updates) == (1e-6, 256, 10_000)
    assert (paper.schedule.steps, paper.schedule.tuned_steps, paper.schedule.guidance) == (25, 5, 7.5)
    assert paper.validation.eval_tuned_steps == 15
    code = make_config("sd15", profile="official-code")
    assert code.rewards.mix == "clip-cosine=50,aesthetic-v2=3,pickscore=1,hpsv2=100"
    assert (code.schedule.spacing, code.rewards.pool, code.optimiser.clip) == ("trailing", 224, 0.0)
    assert code.trainable.tune_null


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("model", ["micro", "sd15", "someone/model"])
def test_every_profile_is_valid(model: str, profile: str) -> None:
    config = make_config(model, profile=profile)
    assert config.model == model
    mix = parse_mix(config.rewards.mix) if config.rewards.mix else {}
    assert all(info(name).differentiable for name in mix)
    shipped = bool(mix) and all(name.startswith("world-") for name in mix)
    assert config.rewards.calibration == ("world" if shipped else "")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "expected name=value, such as optimiser.lr=1e-4"),
        ("optimiser.lr=fast", "optimiser.lr = 'fast'; expected a number"),
        ("optimiser.batch=2.5", "optimiser.batch = 2.5; expected a whole number"),
        ("optimiser.batch=true", "optimiser.batch = True; expected a whole number"),
        ("trainable.tune_null=1", "trainable.tune_null = 1; expected true or false"),
        ("schedule.size=[64]", "schedule.size"),
        ("optimiser.batch=0", "optimiser.batch = 0; expected at least 1"),
        ("optimiser.lr=nan", "optimiser.lr = nan"),
        ("optimiser.warmup=-1", "optimiser.warmup = -1; expected at least 0"),
        ("optimiser.ema=1.0", "optimiser.ema = 1.0; expected less than 1"),
        ("schedule.tuned_steps=26", "tuned_steps = 26 is more than steps = 25"),
        ("validation.eval_tuned_steps=26", "eval_tuned_steps = 26 is more than schedule.steps = 25"),
        ("trainable.parts=[]", "trainable.parts is empty"),
        ("data.pairs=folder", "direct and denoising require a folder of pairs"),
        ("algorithm.name=direct", "direct and denoising require a folder of pairs"),
    ],
)
def test_wrong_values_are_refused_with_one_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_config("micro", settings=[setting])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "close"),
    [
        ("optimiser.learning_rate=1", "optimiser"),
        ("algorithm.name=chian", "chain"),
        ("memory.precision=float64", "float32"),
        ("schedule.sampler=ddmi", "ddim"),
        ("schedule.spacing=trail", "trailing"),
        ("trainable.parts=text_encoder2", "text_encoder_2"),
        ("optimiser.lr_schedule=cos", "cosine"),
    ],
)
def test_unknown_names_get_close_matches(setting: str, close: str) -> None:
    with pytest.raises(UnknownName, match=close):
        make_config("micro", settings=[setting])


def test_several_problems_are_reported_together_one_per_line() -> None:
    with pytest.raises(Problems) as caught:
        make_config("micro", settings=["optimiser.lr=fast", "optimiser.batch=0", "data.nosies=1"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm.name": "one-step", "schedule.sampler": "euler"}, 'set schedule.sampler = "ddim"'),
        ({"algorithm.name": "low-variance", "schedule.sampler": "pndm"},
         'set schedule.sampler = "ddim"'),
        ({"algorithm.name": "direct", "data.pairs": "x", "data.prompts": "",
          "schedule.sampler": "euler"}, 'set schedule.sampler = "ddim"'),
        ({"algorithm.name": "denoising", "data.pairs": "x", "data.prompts": "",
          "schedule.sampler": "euler"}, 'set schedule.sampler = "ddim"'),
        ({"memory.prefix_cache": "x", "schedule.sampler": "dpm++2m"}, "remembers earlier steps"),
    ],
)  # fmt: skip
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config("micro", overrides=settings)


def test_another_model_in_the_settings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('model = "micro"\n')
    assert make_config("micro", file=file).model == "micro"
    with pytest.raises(ConfigError, match="model = 'micro' in the settings, but 'sd15' was given"):
        make_config("sd15", file=file)
    with pytest.raises(ConfigError, match="model = 'sd15' in the settings, but 'micro' was given"):
        make_config("micro", settings=["model=sd15"])


@pytest.mark.parametrize(
    "settings",
    [
        ["trainable.parts=text_encoder,unet"],
        ["trainable.parts=[text_encoder, unet]"],  # what a shell leaves of a TOML list
        ['trainable.parts=["text_encoder", "unet"]'],
        ["trainable.parts=text_encoder", "trainable.parts=unet"],
        ["trainable.parts=[text_encoder]", 'trainable.parts=["unet"]'],
    ],
)
def test_lists_are_written_with_commas_as_toml_or_by_repeating(settings: list[str]) -> None:
    config = make_config("micro", settings=settings)
    assert config.trainable.parts == ("text_encoder", "unet")


def test_repeated_assignments_of_anything_but_a_list_replace_each_other() -> None:
    config = make_config("micro", settings=["optimiser.lr=1", "optimiser.lr=2", "trainable.parts=unet"])
    assert (config.optimiser.lr, config.trainable.parts) == (2, ("unet",))
    with pytest.raises(ConfigError, match=r"parts has unet, unet; expected .* each once"):
        make_config("micro", settings=["trainable.parts=unet", "trainable.parts=unet"])


def test_conditioning_is_refused_for_the_unet() -> None:
    with pytest.raises(ConfigError, match="detached-chain"):
        make_config("micro", settings=["algorithm.name=conditioning", "trainable.parts=unet"])


def test_unknown_profiles_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="default"):
        make_config("micro", profile="defualt")
    with pytest.raises(ConfigError, match="cannot read"):
        make_config("micro", file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr = = 3")
    with pytest.raises(ConfigError, match="is not TOML"):
        make_config("micro", file=tmp_path / "bad.toml")


def test_default_for_micro() -> None:
    config = make_config("micro", settings=["schedule.steps=50"])
    assert config.schedule.tuned_step_count == 50
    assert config.rewards.mix.endswith("world-clip=5")
    assert config.rewards.balance
    assert config.algorithm.bound_gradients
    assert config.rewards.constraints == ()


@pytest.mark.parametrize(
    ("profile", "overrides", "weight"),
    [
        ("quick", {}, "world-clip=5"),
        ("ddpo", {}, "world-clip=2.6"),
        ("grpo", {}, "world-clip=2.6"),
        ("nft", {}, "world-clip=2.6"),
        ("rewriter", {"trainable.rewriter": "world-extend"}, "world-clip=2.6"),
        ("default", {"rewards.balance": False}, "world-clip=2.6"),
        ("ddpo", {"rewards.mix": "world-clip=7"}, "world-clip=7"),
    ],
)
def test_default_mix_depends_on_whether_rewards_are_balanced(
    profile: str, overrides: dict[str, object], weight: str
) -> None:
    assert make_config("micro", profile=profile, overrides=overrides).rewards.mix.endswith(weight)


# Earlier versions


@pytest.mark.parametrize("old", OLD_NAMES)
def test_old_names_give_an_error_with_the_new_name(old: str) -> None:
    with pytest.raises(ConfigError, match=f"{old!r} is now {OLD_NAMES[old]!r}"):
        make_config("micro", settings=[f"{old}=1"])


def test_old_names_lead_to_settings() -> None:
    groups = get_type_hints(TrainConfig)
    names = {
        f"{group.name}.{field.name}"
        for group in fields(TrainConfig)
        if is_dataclass(groups[group.name])
        for field in fields(groups[group.name])
    }
    assert set(OLD_NAMES.values()) <= names


def old_record(**changes: Any) -> dict[str, Any]:
    """The configuration of a train.json as earlier versions wrote it."""
    return {
        "model": "micro", "rewards": "world-aesthetic=1", "calibration": "world", "prompts": "world",
        "start": "", "pairs": "", "rewriter": "", "trains": ["text_encoder"], "lora_rank": 0,
        "estimator": "ddpo", "sampler": "ddim", "steps": 25, "tuned_steps": 25, "drawn_tuned_steps": 25,
        "guidance": 3.0, "size": None, "spacing": "", "tune_null": True, "reward_pool": 0, "updates": 31,
        "batch": 16, "micro_batch": 0, "noises": 0, "lr": 3e-05, "lr_schedule": "constant", "warmup": 0,
        "weight_decay": 0.01, "clip": 1.0, "group": 8, "eta": 1.0, "policy_updates": 2,
        "ratio_clip": 0.0001, "ema": 0.0, "drift_penalty": 0.0, "selection": "world-siglip",
        "validation": "world-validation", "validation_prompts": 32, "validate_every": 11,
        "stop_on_alarm": False, "precision": "float32", "checkpointing": False, "decode_slice": 0,
        "compile": False, "offload": False, "prefix_cache": "prefixes", "prefix_gigabytes": 4.0, "seed": 0,
        "method": "RL", "save_every": 11, "keep": 2, "trackers": [],
    } | changes  # fmt: skip


def test_records_of_earlier_versions_are_read() -> None:
    config = TrainConfig.from_record(old_record())
    assert (config.optimiser.lr, config.algorithm.name, config.data.group) == (3e-5, "ddpo", 8)
    assert (config.trainable.parts, config.validation.prompts) == (
        ("text_encoder",),
        "suite:world-validation",
    )
    assert config.data.prompts == "suite:world-train"
    assert TrainConfig.from_record(asdict(config)) == config


def test_an_earlier_record_equals_the_same_configuration() -> None:
    config = asdict(TrainConfig.from_record(old_record()))
    assert _config_differences(old_record(), config) == []
    assert _config_differences(old_record(lr=1e-3), config) == ["optimiser.lr was 0.001, is now 3e-05"]
    assert _config_differences(old_record(gone=3), config) == ["gone was 3, is now None"]
    fewer = {name: value for name, value in old_record().items() if name != "warmup"}
    assert _config_differences(fewer, config) == []  # written before the setting existed


def test_only_settings_that_decide_the_weights_are_compared() -> None:
    config = TrainConfig("micro")
    changed = replace(
        config,
        logging=replace(config.logging, method="ours", keep=9, save_every=3, trackers=("tensorboard",)),
        memory=replace(config.memory, prefix_cache="x", prefix_gigabytes=1.0, offload=True),
        optimiser=replace(config.optimiser, updates=7),
    )
    assert _config_differences(asdict(config), asdict(changed)) == []
    falling = replace(config, optimiser=replace(config.optimiser, lr_schedule="cosine"))
    shorter = replace(falling, optimiser=replace(falling.optimiser, updates=7))
    # a falling learning rate ends elsewhere
    assert _config_differences(asdict(falling), asdict(shorter)) == ["optimiser.updates was 1000, is now 7"]
