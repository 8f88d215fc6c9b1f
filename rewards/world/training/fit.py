"""One resumable training loop for every model of the embedded world.

Each step's data and noise come from (seed, step) alone and the whole state is in one safetensors file, so a
run that was cut off ends bit-equal to one that was not (same machine, same number of threads).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

LOG_EVERY = 20
"""Steps between two lines of the log."""

Losses = Mapping[str, Tensor]
"""Named scalars of one step; the entry ``loss`` is minimised, the others are logged."""


@dataclass(frozen=True)
class Plan:
    """How a model is trained.

    ``steps`` optimiser steps of AdamW; learning rate ``lr`` after a linear ``warmup`` (steps), decayed by a
    half cosine to ``final`` x lr; gradients clipped to norm ``clip``; ``ema`` is the decay per step of the
    averaged weights that are kept (0: off).
    """

    name: str
    steps: int
    lr: float
    batch: int
    seed: int
    warmup: int = 100
    final: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0
    save_every_s: float = 60.0


def learning_rate(plan: Plan, step: int) -> float:
    """Learning rate at a step, counted from 0."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.lr * (plan.final + (1 - plan.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def fit(
    plan: Plan,
    model: nn.Module,
    loss: Callable[[np.random.Generator], Losses],
    folder: Path,
    groups: list[dict[str, object]] | None = None,
) -> nn.Module:
    """Train ``model`` in place and return it with its final (averaged, if ``plan.ema``) weights.

    ``loss`` draws a batch from the generator it is given and returns the step's losses. ``groups`` are
    AdamW parameter groups with an optional ``scale`` of the learning rate. State and log live in
    ``folder/<plan.name>.{safetensors,jsonl}``; a finished state is loaded and nothing is trained again.
    Models and data are on torch's default device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = [dict(g) for g in groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]]
    scales = [float(str(group.pop("scale", 1.0))) for group in groups]
    optimiser = torch.optim.AdamW(
        groups, lr=plan.lr, betas=(0.9, 0.98), weight_decay=plan.weight_decay, fused=True
    )
    average = {k: v.detach().clone() for k, v in model.state_dict().items()} if plan.ema else {}
    state = folder / f"{plan.name}.safetensors"
    start = _restore(state, model, optimiser, average) if state.exists() else 0
    log = folder / f"{plan.name}.jsonl"
    _cut(log, start)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    last_save, began = time.monotonic(), time.monotonic()
    for step in range(start, plan.steps):
        for group, scale in zip(optimiser.param_groups, scales, strict=True):
            group["lr"] = learning_rate(plan, step) * scale
        torch.manual_seed(plan.seed * 1_000_003 + step)
        losses = loss(np.random.default_rng([plan.seed, step]))
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(trained, plan.clip)
        optimiser.step()
        _update(average, model, plan.ema, step)
        last = step + 1 == plan.steps
        if step % LOG_EVERY == 0 or last:
            pace = (time.monotonic() - began) / (step + 1 - start)
            _log(log, step, losses, float(norm), pace)
        if time.monotonic() - last_save > plan.save_every_s or last:
            _save(state, model, optimiser, average, step + 1)
            last_save = time.monotonic()
    if average:
        model.load_state_dict(average)
    return model.eval()


def _update(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Exponential average with a warm-up, so that early steps do not keep the initial weights alive."""
    keep = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if average and value.is_floating_point():
            average[name].lerp_(value.detach(), 1 - keep)


def _cut(path: Path, step: int) -> None:
    """Drop the log's rows from ``step`` on: those steps were lost with the process that made them."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step]
    if len(kept) < len(lines):
        path.write_text("".join(kept), encoding="utf-8")


def _log(path: Path, step: int, losses: Losses, norm: float, seconds: float) -> None:
    row = {"step": step, "grad_norm": norm, "seconds_per_step": seconds}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row | {name: float(value.detach()) for name, value in losses.items()}) + "\n")


def _save(
    path: Path, model: nn.Module, optimiser: torch.optim.AdamW, average: dict[str, Tensor], step: int
) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    temporary = path.with_suffix(".tmp")
    save_file(
        {k: v.detach().clone().contiguous() for k, v in tensors.items()}, temporary, {"step": str(step)}
    )
    os.replace(temporary, path)


def _restore(path: Path, model: nn.Module, optimiser: torch.optim.AdamW, average: dict[str, Tensor]) -> int:
    device = str(next(model.parameters()).device)
    with safe_open(path, framework="pt", device=device) as file:
        step = int(file.metadata()["step"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for name in average:
        average[name] = tensors[f"average.{name}"]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            states.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    return step
