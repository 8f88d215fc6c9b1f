"""One resumable training loop for every model of the embedded world.

The data and noise of each step depend on (seed, step) alone, and the whole state is in one safetensors file.
So a run that was interrupted and resumed gives bit-identical weights on the same machine with the same number
of threads.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tcbench.files import new_file

LOG_EVERY = 20
"""Steps between two lines of the log."""

Losses = Mapping[str, Tensor]
"""Named scalars of one step. The entry ``loss`` is minimised, the others are logged."""


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of `fit_model`."""

    name: str
    """Name of the state file and the log."""
    steps: int
    """Optimiser steps."""
    lr: float
    """Learning rate of AdamW after warm-up."""
    batch: int
    seed: int
    warmup: int = 100
    """Steps in which the learning rate rises linearly from 0."""
    final: float = 0.02
    """Learning rate at the end of the cosine decay, as a share of ``lr``."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Greatest norm of the gradient."""
    ema: float = 0.0
    """Decay per step of the averaged weights, which are the result; 0 is off."""
    save_every_s: float = 60.0
    """Seconds between two saves of the state."""


def fit_model(
    plan: TrainingPlan,
    model: nn.Module,
    loss: Callable[[np.random.Generator], Losses],
    folder: Path,
    groups: list[dict[str, object]] | None = None,
) -> nn.Module:
    """Train a model in place, or resume, or load the finished state.

    Args:
        plan: Settings.
        model: The model, on torch's default device, where the data must be too.
        loss: Generates a batch with the given generator and returns the losses of the step.
        folder: Folder of the state ``<plan.name>.safetensors`` and the log ``<plan.name>.jsonl``.
        groups: Parameter groups of AdamW, each with an optional ``scale`` of the learning rate.

    Returns:
        The model with its final weights (averaged if ``plan.ema``), in eval mode.
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
    _truncate_log(log, start)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    last_save, began = time.monotonic(), time.monotonic()
    for step in range(start, plan.steps):
        for group, scale in zip(optimiser.param_groups, scales, strict=True):
            group["lr"] = _learning_rate(plan, step) * scale
        # Seeded anew each step, so that no random state has to be saved. The factor keeps the seeds of
        # different plans apart.
        torch.manual_seed(plan.seed * 1_000_003 + step)
        losses = loss(np.random.default_rng([plan.seed, step]))
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(trained, plan.clip)
        optimiser.step()
        _update_average(average, model, plan.ema, step)
        last = step + 1 == plan.steps
        if step % LOG_EVERY == 0 or last:
            pace = (time.monotonic() - began) / (step + 1 - start)
            _append_log(log, step, losses, float(norm), pace)
        if time.monotonic() - last_save > plan.save_every_s or last:
            _save(state, model, optimiser, average, step + 1)
            last_save = time.monotonic()
    if average:
        model.load_state_dict(average)
    return model.eval()


def _learning_rate(plan: TrainingPlan, step: int) -> float:
    """Learning rate at a step, counted from 0: linear warm-up, then half a cosine."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.lr * (plan.final + (1 - plan.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Update the exponential average of the weights."""
    # A lower decay in early steps: else the initial weights would stay in the average for 1 / (1 - decay)
    # steps.
    keep = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if average and value.is_floating_point():
            average[name].lerp_(value.detach(), 1 - keep)


def _truncate_log(path: Path, step: int) -> None:
    """Remove rows from ``step`` on: the state of those steps was lost with the process."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step]
    if len(kept) < len(lines):
        path.write_text("".join(kept), encoding="utf-8")


def _append_log(path: Path, step: int, losses: Losses, norm: float, seconds: float) -> None:
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
    values = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    with new_file(path) as temporary:
        save_file(values, temporary, {"step": str(step)})


def _restore(path: Path, model: nn.Module, optimiser: torch.optim.AdamW, average: dict[str, Tensor]) -> int:
    """Load a state and return the number of finished steps."""
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
