"""The training loop: resuming, averaging, logging, and loading a finished state."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rewards.world.training.fit import LOG_EVERY, Losses, TrainingPlan, _learning_rate, fit_model

PLAN = TrainingPlan("toy", steps=12, lr=0.05, batch=8, seed=3, warmup=4, ema=0.9, save_every_s=0.0)


class Interrupted(Exception):
    """Stands for a killed process."""


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))


def regression(model: nn.Module, fail_at: int | None = None) -> Callable[[np.random.Generator], Losses]:
    """A loss with data from the generator and noise from torch; it can be interrupted at its n-th call."""
    calls = 0

    def loss(rng: np.random.Generator) -> Losses:
        nonlocal calls
        if calls == fail_at:
            raise Interrupted
        calls += 1
        x = torch.from_numpy(rng.normal(size=(PLAN.batch, 3))).float()
        error = model(x)[:, 0] - x.sum(dim=1) + 0.1 * torch.randn(PLAN.batch)
        return {"loss": error.square().mean(), "largest": error.abs().max()}

    return loss


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def trained(plan: TrainingPlan, folder: Path) -> list[Tensor]:
    model = toy()
    return weights(fit_model(plan, model, regression(model), folder))


def never(_: np.random.Generator) -> Losses:
    raise AssertionError("trained again")


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "toy.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("cuts", [[5], [1, 3, 2]])
def test_resuming_gives_identical_weights(ema: float, cuts: list[int], tmp_path: Path) -> None:
    plan = replace(PLAN, ema=ema)
    whole = trained(plan, tmp_path / "whole")
    for fail_at in cuts:
        model = toy()
        with pytest.raises(Interrupted):
            fit_model(plan, model, regression(model, fail_at), tmp_path / "cut")
        torch.randn(7)  # other random numbers of the process
    resumed = trained(plan, tmp_path / "cut")
    assert all(torch.equal(one, other) for one, other in zip(resumed, whole, strict=True))


def test_the_random_state_of_the_process_does_not_matter(tmp_path: Path) -> None:
    first, second = toy(), toy()
    torch.manual_seed(100)
    fit_model(PLAN, first, regression(first), tmp_path / "first")
    torch.manual_seed(200)
    fit_model(PLAN, second, regression(second), tmp_path / "second")
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    other = trained(replace(PLAN, seed=4), tmp_path / "other")
    assert not torch.equal(other[0], weights(first)[0])


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_finished_state_is_loaded_and_nothing_is_trained(ema: float, tmp_path: Path) -> None:
    plan = replace(PLAN, ema=ema)
    first = trained(plan, tmp_path)
    log = (tmp_path / "toy.jsonl").read_text(encoding="utf-8")
    again = weights(fit_model(plan, toy(), never, tmp_path))
    assert all(torch.equal(one, other) for one, other in zip(again, first, strict=True))
    assert (tmp_path / "toy.jsonl").read_text(encoding="utf-8") == log


def test_no_temporary_files_are_left(tmp_path: Path) -> None:
    trained(PLAN, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.jsonl", "toy.safetensors"]


def test_the_state_is_saved_at_the_given_interval(tmp_path: Path) -> None:
    model = toy()
    with pytest.raises(Interrupted):
        fit_model(replace(PLAN, save_every_s=3600.0), model, regression(model, fail_at=10), tmp_path)
    assert not (tmp_path / "toy.safetensors").exists()


def test_the_averaged_weights_are_returned(tmp_path: Path) -> None:
    """Compared with the recurrence: the average keeps min(ema, (1 + step) / (10 + step)) of itself."""
    model = toy()
    plain, seen = regression(model), []

    def loss(rng: np.random.Generator) -> Losses:
        seen.append(weights(model))
        return plain(rng)

    returned = weights(fit_model(replace(PLAN, ema=0.3), model, loss, tmp_path / "averaged"))
    seen.append(trained(replace(PLAN, ema=0.0), tmp_path / "last"))  # the same steps, the last one included
    for index, value in enumerate(returned):
        expected = seen[0][index]
        for step in range(PLAN.steps):
            keep = min(0.3, (1 + step) / (10 + step))
            expected = keep * expected + (1 - keep) * seen[step + 1][index]
        torch.testing.assert_close(value, expected)
        assert not torch.equal(value, seen[-1][index])


def test_the_learning_rate_rises_linearly_and_decays_by_half_a_cosine() -> None:
    plan = TrainingPlan("p", steps=110, lr=0.2, batch=1, seed=0, warmup=10, final=0.1)
    assert _learning_rate(plan, 0) == pytest.approx(0.02)
    assert _learning_rate(plan, 4) == pytest.approx(0.1)
    assert _learning_rate(plan, 9) == pytest.approx(0.2)
    assert _learning_rate(plan, 10) == pytest.approx(0.2)
    assert _learning_rate(plan, 35) == pytest.approx(0.2 * (0.1 + 0.45 * (1 + math.sqrt(0.5))))
    assert _learning_rate(plan, 60) == pytest.approx(0.2 * 0.55)
    assert _learning_rate(plan, 110) == pytest.approx(0.02)
    assert _learning_rate(plan, 500) == pytest.approx(0.02)
    rates = [_learning_rate(plan, step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_the_optimiser_steps_at_the_plans_rate_and_scales_its_groups(tmp_path: Path) -> None:
    """Adam's first step is the learning rate in each coordinate, here the first of a warm-up of 4."""
    plan = replace(PLAN, steps=1, weight_decay=0.0, ema=0.0)
    model = nn.ParameterList([nn.Parameter(torch.ones(2)) for _ in range(3)])
    groups: list[dict[str, object]] = [
        {"params": [model[0]]},
        {"params": [model[1]], "scale": 0.1},
    ]
    fit_model(plan, model, lambda _: {"loss": sum(p.sum() for p in model)}, tmp_path, groups)
    first = _learning_rate(plan, 0)
    for parameter, moved in zip(model, (first, 0.1 * first, 0.0), strict=True):
        torch.testing.assert_close(parameter.detach(), torch.full((2,), 1 - moved))


def test_the_loss_falls_and_the_model_is_in_eval_mode(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    fit_model(replace(PLAN, steps=60), model, regression(model), tmp_path)
    log = rows(tmp_path)
    assert log[-1]["loss"] < 0.2 * log[0]["loss"]
    assert not model.training


def test_the_log_has_all_losses_at_regular_steps_and_at_the_last(tmp_path: Path) -> None:
    trained(replace(PLAN, steps=2 * LOG_EVERY + 3), tmp_path)
    log = rows(tmp_path)
    assert [row["step"] for row in log] == [0, LOG_EVERY, 2 * LOG_EVERY, 2 * LOG_EVERY + 2]
    for row in log:
        assert set(row) == {"step", "loss", "largest", "grad_norm", "seconds_per_step"}
        assert row["largest"] ** 2 >= row["loss"] > 0
