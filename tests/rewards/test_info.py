"""Roles of rewards."""

from __future__ import annotations

import pytest

import rewards
from rewards.info import Use

JUDGES = ["world-blip", "world-rule", "world-oracle"]


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("use", ["training", "selection"])
def test_judge_role_forbids_training_and_selection(name: str, use: Use) -> None:
    record = rewards.info(name)
    with pytest.raises(rewards.WrongRole, match=rf"{name} has the role 'judge' and cannot be used for {use}"):
        rewards.check_role(record, use)
    rewards.check_role(record, use, ablation=True)


def test_selection_role_allows_selection_only() -> None:
    rewards.check_role(rewards.info("world-siglip"), "selection")
    with pytest.raises(rewards.WrongRole, match="use a reward with the role trainable, or"):
        rewards.check_role(rewards.info("world-siglip"), "training")


def test_trainable_role_allows_both() -> None:
    for name in ("world-clip", "world-aesthetic", "world-pick", "world-hps", "pickscore", "hpsv2"):
        rewards.check_role(rewards.info(name), "training")
        rewards.check_role(rewards.info(name), "selection")
