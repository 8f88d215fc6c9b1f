"""Roles of rewards."""

from __future__ import annotations

import pytest

import rewards
from rewards.info import Use

JUDGES = ["world-blip", "world-vqa", "world-rule", "world-oracle"]


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("use", ["training", "selection"])
def test_judge_role_forbids_training_and_selection(name: str, use: Use) -> None:
    record = rewards.info(name)
    with pytest.raises(rewards.WrongRole, match=rf"{name} has the role 'judge' and cannot be used for {use}"):
        record.check_role(use)
    record.check_role(use, ablation=True)


def test_selection_role_allows_selection_only() -> None:
    rewards.info("world-siglip").check_role("selection")
    with pytest.raises(rewards.WrongRole, match="use a reward with the role trainable, or"):
        rewards.info("world-siglip").check_role("training")


def test_trainable_role_allows_both() -> None:
    for name in ("world-clip", "world-aesthetic", "world-pick", "world-hps", "pickscore", "hpsv2"):
        rewards.info(name).check_role("training")
        rewards.info(name).check_role("selection")
