"""Two processes that share an update make the step of one process that has all of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

WORKER = """
import json, sys
import torch
import accelerate
from textcraftor import train as loop
from textcraftor.train import TrainConfig

values, out, broken = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3] == "broken"
values["trains"], values["trackers"] = tuple(values["trains"]), ()
# Adam divides a gradient by its own size and so makes much of rounding: plain descent shows the gradients
torch.optim.AdamW = lambda parameters, lr, **_: torch.optim.SGD(parameters, lr=lr)
if broken:
    accelerate.Accelerator.prepare = lambda self, module: module
loop.train(TrainConfig(**values), out, device="cpu")
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def launch(processes: int, config: dict[str, Any], out: Path, mode: str = "whole") -> dict[str, torch.Tensor]:
    """The tuned encoder of a run in that many processes (gloo)."""
    base = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    if processes > 1:
        base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    running = []
    for rank in range(processes):
        own = base | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        command = [sys.executable, "-W", "ignore", "-c", WORKER, json.dumps(config), str(out), mode]
        running.append(subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in running]
    assert all(process.returncode == 0 for process in running), said
    newest = sorted((out / "checkpoints").iterdir())[-1]
    return load_file(newest / "text_encoder" / "model.safetensors")


@pytest.fixture
def config(tiny_pipeline: Path, tmp_path: Path) -> dict[str, Any]:
    toys = tmp_path / "toys.py"
    toys.write_text(
        "from rewards import Reward, RewardInfo, register\n"
        '@register(RewardInfo("shared-red", uses_prompt=False))\n'
        "class Red(Reward):\n"
        "    def _score(self, pixels, prompts):\n"
        "        return pixels[:, 0].mean((1, 2)) - pixels[:, 1:].mean((1, 2, 3))\n"
    )
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\na hen\na cow\na pig\na fox\n")
    return {
        "model": str(tiny_pipeline),
        "rewards": f"{toys}:Red=1",
        "prompts": str(prompts),
        "steps": 4,
        "tuned_steps": 2,
        "drawn_tuned_steps": 2,
        "guidance": 3.0,
        "batch": 4,
        "updates": 3,
        "lr": 10.0,
        "clip": 0.0,
        "micro_batch": 1,
        "validate_every": 2,
        "validation": str(prompts),
        "validation_prompts": 2,
        "selection": "world-siglip",
        "trains": ["text_encoder"],
    }


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(
    "changes", [{}, {"estimator": "ddpo", "eta": 1.0, "policy_updates": 1}], ids=["gradient", "ddpo"]
)
def test_two_processes_make_the_steps_of_one(
    config: dict[str, Any], changes: dict[str, Any], tmp_path: Path, tiny_pipeline: Path
) -> None:
    config |= changes
    one = launch(1, config, tmp_path / "one")
    two = launch(2, config, tmp_path / "two")
    broken = launch(2, config, tmp_path / "broken", "broken")
    start = load_file(tiny_pipeline / "text_encoder" / "model.safetensors")
    begun = {name: start[name if name in start else name.removeprefix("text_model.")] for name in one}
    moved = distance(one, begun)
    assert moved > 1e-4
    assert distance(one, two) < 1e-3 * moved
    assert distance(one, broken) > 0.1 * moved  # what a run without synchronisation comes to
