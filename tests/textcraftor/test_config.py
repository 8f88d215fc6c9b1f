"""Training configurations: where a value comes from, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rewards.combine.terms import parse_mix
from rewards.registry import info
from tcbench.errors import ConfigError, UnknownName
from textcraftor.config import FREE, PROFILES, TrainConfig, make_config


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('lr = 2e-5\nbatch = 4\ntrains = ["unet"]\nsize = [64, 32]\n')
    made = make_config("micro", file=file, settings=["batch=2", "rewards=world-pick=1"], seed=5)
    assert (made.lr, made.batch, made.trains, made.size) == (2e-5, 2, ("unet",), (64, 32))
    assert (made.rewards, made.seed) == ("world-pick=1", 5)
    assert made.prompts == "world"  # the model's own


def test_the_papers_profile_has_the_papers_numbers() -> None:
    made = make_config("sd15", profile="paper")
    assert made.rewards == "clip-cosine=100,aesthetic-v2=1,pickscore=1,hpsv2=100"  # bare cosines, both
    assert (made.lr, made.batch, made.updates, made.guidance) == (1e-6, 256, 10_000, 7.5)
    assert (made.steps, made.tuned_steps, made.drawn_tuned_steps) == (25, 5, 15)
    code = make_config("sd15", profile="official-code")
    assert code.rewards == "clip-cosine=50,aesthetic-v2=3,pickscore=1,hpsv2=100"
    assert (code.spacing, code.reward_pool, code.tune_null, code.clip) == ("trailing", 224, True, 0.0)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("model", ["micro", "sd15", "someone/model"])
def test_every_profile_makes_a_configuration(model: str, profile: str) -> None:
    made = make_config(model, profile=profile)
    assert made.model == model
    if made.rewards:
        assert all(info(name).differentiable for name in parse_mix(made.rewards))
    shipped = all(name.startswith("world-") for name in parse_mix(made.rewards)) if made.rewards else False
    assert made.calibration == ("world" if shipped else "")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "sets nothing; write name=value"),
        ("lr=fast", "lr = 'fast'; expected a number"),
        ("batch=2.5", "batch = 2.5; expected a whole number"),
        ("batch=true", "batch = True; expected a whole number"),
        ("tune_null=1", "tune_null = 1; expected true or false"),
        ("size=[64]", "expected a list of two whole numbers"),
        ("batch=0", "batch is 0; expected at least 1"),
        ("lr=nan", "lr is nan; expected at least 0"),
        ("warmup=-1", "warmup is -1; expected at least 0"),
        ("ema=1.0", "ema is 1.0; expected a decay below 1"),
        ("tuned_steps=26", "tuned_steps is 26, more than the 25 steps"),
        ("trains=[]", "trains names nothing"),
        ("pairs=folder", "need each other"),
        ("estimator=direct", "need each other"),
    ],
)
def test_wrong_values_are_refused_in_a_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config("micro", settings=[setting])


@pytest.mark.parametrize(
    ("setting", "close"),
    [
        ("learning_rate=1", "lr"),
        ("estimator=chian", "chain"),
        ("precision=float64", "float32"),
        ("sampler=ddmi", "ddim"),
        ("spacing=trail", "trailing"),
        ("trains=text_encoder2", "text_encoder_2"),
        ("lr_schedule=cos", "cosine"),
    ],
)
def test_unknown_names_get_close_matches(setting: str, close: str) -> None:
    with pytest.raises(UnknownName, match=close):
        make_config("micro", settings=[setting])


def test_conditioning_only_is_refused_where_the_unet_is_trained() -> None:
    with pytest.raises(ConfigError, match="detached-chain"):
        make_config("micro", settings=["estimator=conditioning", "trains=unet"])


def test_unknown_profiles_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="default"):
        make_config("micro", profile="defualt")
    with pytest.raises(ConfigError, match="cannot read"):
        make_config("micro", file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr = = 3")
    with pytest.raises(ConfigError, match="is not TOML"):
        make_config("micro", file=tmp_path / "bad.toml")


def test_the_id_is_of_what_decides_the_weights() -> None:
    config = TrainConfig("micro")
    assert replace(config, lr=1e-3).decisive() != config.decisive()
    changed = {"method": "ours", "updates": 7, "keep": 9, "save_every": 3, "trackers": ("tensorboard",),
               "prefix_cache": "x", "prefix_gigabytes": 1.0, "offload": True}  # fmt: skip
    assert set(changed) == set(FREE)
    assert replace(config, **changed).decisive() == config.decisive()
    falling = replace(config, lr_schedule="cosine")
    assert replace(falling, updates=7).decisive() != falling.decisive()  # the schedule ends elsewhere
