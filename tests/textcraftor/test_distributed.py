"""Two processes that share a batch make the same update as one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from textcraftor.config import TrainConfig

WORKER = """
import json, sys
import torch
from textcraftor import training as loop
from textcraftor.algorithms import base
from textcraftor.config import TrainConfig

config, out, broken = TrainConfig.from_record(json.loads(sys.argv[1])), sys.argv[2], sys.argv[3] == "broken"
# Adam divides a gradient by its own size, which amplifies rounding; plain descent shows the gradients
torch.optim.AdamW = lambda parameters, lr, **_: torch.optim.SGD(parameters, lr=lr)
if broken:
    base._average_gradients = lambda accelerator, parameters: None
loop.train(config, out, device="cpu")
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def launch(processes: int, config: TrainConfig, out: Path, mode: str = "whole") -> dict[str, torch.Tensor]:
    """The tuned encoder of a run in that many processes (gloo)."""
    base = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    if processes > 1:
        base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    running = []
    for rank in range(processes):
        environment = base | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        record = json.dumps(asdict(config))
        command = [sys.executable, "-W", "ignore", "-c", WORKER, record, str(out), mode]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert all(process.returncode == 0 for process in running), errors
    newest = sorted((out / "checkpoints").iterdir())[-1]
    return load_file(newest / "text_encoder" / "model.safetensors")


REWARDS = """
from rewards import Reward, RewardInfo, register

@register(RewardInfo("shared-red", uses_prompt=False))
class Red(Reward):
    def _score(self, pixels, prompts):
        return pixels[:, 0].mean((1, 2)) - pixels[:, 1:].mean((1, 2, 3))
"""
REWARD = "Red"
PROMPTS = ["a cat", "a dog", "a hen", "a cow", "a pig", "a fox"]
CONFIG = {
    "steps": 4, "tuned_steps": 2, "eval_tuned_steps": 2, "guidance": 3.0, "batch": 4, "updates": 3,
    "lr": 10.0, "clip": 0.0, "micro_batch": 1, "every": 2, "prompt_count": 2,
    "selection_reward": "world-siglip",
}  # fmt: skip


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(
    "changes", [{}, {"algorithm": "ddpo", "eta": 1.0, "policy_updates": 1}], ids=["gradient", "ddpo"]
)
def test_two_processes_make_the_updates_of_one(
    config_for: Callable[..., TrainConfig], changes: dict[str, Any], tmp_path: Path, tiny_pipeline: Path
) -> None:
    config = config_for(**changes)
    one = launch(1, config, tmp_path / "one")
    two = launch(2, config, tmp_path / "two")
    broken = launch(2, config, tmp_path / "broken", "broken")
    start = load_file(tiny_pipeline / "text_encoder" / "model.safetensors")
    begun = {name: start[name if name in start else name.removeprefix("text_model.")] for name in one}
    moved = distance(one, begun)
    assert moved > 1e-4
    assert distance(one, two) < 1e-3 * moved
    assert distance(one, broken) > 0.1 * moved  # the test detects a run without synchronisation
