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
    "colourfulness": "245523310202",
    "darkness": "d321637a2779",
    "world-clip": "fbe779ff2c08",
    "world-aesthetic": "d1c1f3d9bff8",
    "world-pick": "d266e61f3ca6",
    "world-hps": "b1a8f2d23a47",
    "world-siglip": "8f77d38d8519",
    "world-blip": "8f78dca0db33",
    "world-vqa": "f2078cae023d",
    "world-rule": "ab9ce3c00fcc",
    "world-oracle": "79203babdf6c",
}

GENERATION_IDS = {
    ("micro", "world"): "781d04c3f34b",
    ("micro", "world-sealed"): "c7ab660961e7",
    ("micro", "world-validation"): "f2e74c38746c",
    ("micro", "world-train"): "2a7d1e258a86",
    ("micro+style-words", "world"): "900315f5136c",
    ("micro-textcraftor", "world"): "c77540f18526",
    ("micro-ddpo", "world"): "ebaf83674b38",
    ("micro-promptist", "world"): "f26b8d365c6d",
}

SYSTEM_IDS = {
    'rewriter = "world-extend"\nschedule = {sampler = "euler", spacing = "trailing"}': "b5d8948fc8d0",
    # the name of earlier versions
    'best_of = 4\nbest_of_reward = "world-pick=1,world-clip=2"\ncalibration = "world"\nschedule.eta = 1.0': (
        "8df833c140c2"
    ),
    (
        'best_of = 4\ntest_time_reward = "world-pick=1,world-clip=2"\n'
        'calibration = "world"\nschedule.eta = 1.0'
    ): "8df833c140c2",
    'optimise = "noise"\ntest_time_reward = "world-clip=2"\ncalibration = "world"': "17550767c24e",
    'optimise = "embedding"\ntest_time_reward = "world-clip=2"': "485cd8a02b57",
}


def generation_id(request: Request) -> str:
    return plan_run(request, with_rewards=False, fetch=False).header.generation_id


@pytest.mark.parametrize("name", SCORE_IDS)
def test_score_id(name: str) -> None:
    assert score_id(rewards.info(name)) == SCORE_IDS[name]


def test_score_id_depends_on_the_precision() -> None:
    assert score_id(rewards.info("world-pick"), "bfloat16") == "624c1c95d58e"


@pytest.mark.parametrize(("model", "suite"), GENERATION_IDS)
def test_generation_id_of_a_named_system(model: str, suite: str) -> None:
    assert generation_id(Request(model, suite=suite, device="cpu")) == GENERATION_IDS[model, suite]


def test_generation_id_covers_steps_and_guidance() -> None:
    assert generation_id(Request("micro", steps=20, guidance=2.0, device="cpu")) == "2905e5bd2509"


@pytest.mark.parametrize("settings", SYSTEM_IDS)
def test_generation_id_of_a_system_file(settings: str, tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text(f'base = "micro"\ntrained_on = []\n{settings}\n')
    assert generation_id(Request(str(tmp_path / "system.toml"), device="cpu")) == SYSTEM_IDS[settings]
