"""Ids of images and scores stay the same, so that earlier runs can be resumed and compared.

If one of these changes on purpose, because an image or a score changes, say so in the changelog.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import rewards
from benchmarks.planning import Request, plan_run
from rewards.base import score_id

SCORE_IDS = {
    "jpeg-compressibility": "9563f1992503",
    "jpeg-incompressibility": "9880d7c498b9",
    "world-clip": "236ed00757cc",
    "world-aesthetic": "b9fb7c5d6798",
    "world-pick": "fd505a3b1522",
    "world-hps": "5cdd7514c0a4",
    "world-siglip": "c658473fd2f3",
    "world-blip": "ff0970d2df21",
    "world-rule": "8fc953eaf3c1",
    "world-oracle": "49a53802ad2f",
}

GENERATION_IDS = {
    ("micro", "world"): "fe3b13c6e705",
    ("micro", "world-validation"): "5508943fa5ef",
    ("micro", "world-train"): "0b90922b60a5",
    ("micro+style-words", "world"): "f11763099e07",
}

SYSTEM_IDS = {
    'rewriter = "world-extend"\nschedule = {sampler = "euler", spacing = "trailing"}': "050029752037",
    'best_of = 4\nbest_of_reward = "world-pick=1,world-clip=2"\ncalibration = "world"\nschedule.eta = 1.0': (
        "d5b951444330"
    ),
}


def generation_id(request: Request) -> str:
    return plan_run(request, with_rewards=False, fetch=False).header.generation_id


@pytest.mark.parametrize("name", SCORE_IDS)
def test_score_id(name: str) -> None:
    assert score_id(rewards.info(name)) == SCORE_IDS[name]


def test_score_id_depends_on_the_precision() -> None:
    assert score_id(rewards.info("world-pick"), "bfloat16") == "5ebf7620e930"


@pytest.mark.parametrize(("model", "suite"), GENERATION_IDS)
def test_generation_id_of_a_named_system(model: str, suite: str) -> None:
    assert generation_id(Request(model, suite=suite, device="cpu")) == GENERATION_IDS[model, suite]


def test_generation_id_covers_steps_and_guidance() -> None:
    assert generation_id(Request("micro", steps=20, guidance=2.0, device="cpu")) == "a231a64614af"


@pytest.mark.parametrize("settings", SYSTEM_IDS)
def test_generation_id_of_a_system_file(settings: str, tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text(f'base = "micro"\ntrained_on = []\n{settings}\n')
    assert generation_id(Request(str(tmp_path / "system.toml"), device="cpu")) == SYSTEM_IDS[settings]
